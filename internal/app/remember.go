package app

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/tidewire/tidewire/config"
)

// JoinedFile is the name of the note, within data_dir, on the cluster that the hub has belonged to last.
const JoinedFile = "cluster.json"

// joined is that note: with it a hub that is started while PostgreSQL is away knows that it may give Kafka events, and one that Kafka hangs up on that its
// settings have worked.
type joined struct {
	// Cluster is what the hubs have in common; see cluster.identity.
	Cluster string `json:"cluster"`
	// How is how Kafka was reached.
	How reached `json:"how"`
}

// reached is what decides how brokers are spoken to.
type reached struct {
	Brokers []string `json:"brokers"`
	TLS     bool     `json:"tls"`
	SASL    string   `json:"sasl,omitempty"`
	User    string   `json:"user,omitempty"`
}

func reachedBy(k *config.Kafka) reached {
	r := reached{Brokers: k.Brokers, TLS: k.TLS != nil}
	if k.SASL != nil {
		r.SASL, r.User = k.SASL.Mechanism, k.SASL.Username
	}
	return r
}

func (r reached) equal(o reached) bool {
	return slices.Equal(r.Brokers, o.Brokers) && r.TLS == o.TLS && r.SASL == o.SASL && r.User == o.User
}

// recall returns the cluster that the hub has belonged to last, if it reached Kafka by the settings it has now; "" when it did not, or when nothing is known.
func recall(c *config.Config) string {
	text, err := os.ReadFile(filepath.Join(c.DataDir, JoinedFile))
	if err != nil {
		return ""
	}
	var j joined
	if json.Unmarshal(text, &j) != nil || !j.How.equal(reachedBy(c.Cluster.Kafka)) {
		return ""
	}
	return j.Cluster
}

// remember notes the cluster that the hub belongs to.
func remember(c *config.Config, cluster string) (err error) {
	if recall(c) == cluster {
		return nil
	}
	text, err := json.MarshalIndent(joined{cluster, reachedBy(c.Cluster.Kafka)}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return err
	}
	// Whole or not at all: half a note would be none.
	path := filepath.Join(c.DataDir, JoinedFile)
	fresh := path + ".new"
	defer func() {
		if e := os.Remove(fresh); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}()
	if err := os.WriteFile(fresh, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
