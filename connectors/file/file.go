// Package file is the connector for a file of JSON Lines (https://jsonlines.org): a target that needs nothing else, for a first
// try, an archive, or another program to read. It sends only.
package file

import (
	"path/filepath"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
)

// Connector is the entry for connectors/all.
var Connector = connectors.Connector{
	Name:     "file",
	Title:    "File: events as JSON Lines, appended and rotated",
	Docs:     "https://jsonlines.org",
	Settings: Settings{},
	Faces:    connectors.Faces{Send: true},
	Open:     open,
}

// Settings of a file connection.
type Settings struct {
	// Path is the file. It is made, with its folders, at the first delivery, readable by the hub's user alone. Relative paths are
	// relative to where the hub was started.
	Path string `yaml:"path,required" doc:"The file. It is made, with its folders, at the first delivery, readable by the hub's user alone."`
	// RotateSize: a file that has reached it is renamed before the next event; 0 means never.
	RotateSize config.Size `yaml:"rotate_size" default:"100MiB" range:"0B..1TiB" doc:"A file that has reached this size is renamed, its end time put before its extension, and a new one begun; 0 means never."`
	// RotateEvery starts a new file at each multiple of it, by UTC; 0 means never.
	RotateEvery config.Duration `yaml:"rotate_every" doc:"Begin a new file this often, counted from midnight UTC: 24h is daily. Not at all when absent."`
	// Keep is how many renamed files are kept beside the current one; 0 means all.
	Keep int `yaml:"keep" range:"0..100000" doc:"How many renamed files are kept; the oldest beyond are removed. All when absent."`
}

// Check finds what the tags cannot say.
func (s *Settings) Check() error {
	if base := filepath.Base(s.Path); base == "." || base == ".." || base == string(filepath.Separator) || s.Path[len(s.Path)-1] == filepath.Separator {
		return config.Fault{Key: "path", Message: "names a folder", Fix: "add the file's name, such as events.jsonl"}
	}
	return nil
}

var (
	_ connectors.Connection = (*target)(nil)
	_ connectors.Target     = (*target)(nil)
)

func open(n config.Node, env connectors.Env) (connectors.Connection, error) {
	var s Settings
	if err := n.Decode(&s); err != nil {
		return nil, err
	}
	return newTarget(s, env.Logger), nil
}
