package all_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/all"
)

func TestConnectors(t *testing.T) {
	t.Parallel()
	list := all.Connectors()
	if !slices.IsSortedFunc(list, func(a, b connectors.Connector) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("not sorted by name")
	}
	for i, c := range list {
		if c.Open == nil || c.Settings == nil || c.Title == "" || c.Docs == "" && c.Name != "file" || c.Faces == (connectors.Faces{}) {
			t.Errorf("%s is not complete: %+v", c.Name, c)
		}
		if i > 0 && list[i-1].Name == c.Name {
			t.Errorf("%s is there twice", c.Name)
		}
	}
	list[0].Name = "changed"
	if all.Connectors()[0].Name == "changed" {
		t.Error("a caller can change the list for others")
	}
}
