// Package all lists the connectors of this build.
package all

import (
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/file"
	"github.com/tidewire/tidewire/connectors/http"
	"github.com/tidewire/tidewire/connectors/stripe"
)

// Connectors returns every connector, sorted by name. The slice is the caller's.
func Connectors() []connectors.Connector {
	return []connectors.Connector{
		file.Connector,
		http.Connector,
		stripe.Connector,
	}
}
