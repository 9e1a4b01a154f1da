// Package config reads Tidewire's config file: YAML (and so JSON) under strict rules, into checked values. It reports
// every mistake at once, each with its place, the offending line and what to do. It imports no other part of
// Tidewire: what belongs to a connector is handed on as a Node, which the connector decodes with the same decoder.
//
// Any text value may hold references: ${env:NAME}, ${env:NAME:-default} (the default also stands in for an empty
// variable), ${file:/path} (without one newline at its end). $${ is the text "${". What a reference stands for is
// text; it is never read as YAML. Relative paths, here and everywhere in the file, start at the working directory.
//
// Refused, because they make a file mean something else than it seems to: more than 1 MiB, anchors, aliases, merge
// keys, tags, duplicate and unknown keys, a second document.
package config

import (
	"errors"
	"io"
	"os"
	"regexp"
)

// Config is a whole config file, defaults filled in. Connections and routes keep the order of the file.
type Config struct {
	Server    Server    `yaml:"server" doc:"Where the hub listens and how much it takes."`
	Hub       Hub       `yaml:"hub" doc:"Which hub this is; in cluster mode."`
	DataDir   string    `yaml:"data_dir" doc:"Folder of the database in embedded mode, of the spool in cluster mode; one hub has it at a time. Created when it does not exist. Default: ./data."`
	Cluster   *Cluster  `yaml:"cluster" doc:"Kafka and PostgreSQL. Its presence turns cluster mode on; without it the hub is embedded and needs nothing."`
	Log       Log       `yaml:"log" doc:"The hub's own log."`
	Retention Retention `yaml:"retention" doc:"How long things are kept."`
	// Connections are the accounts of systems that events come from and go to.
	Connections []Connection `yaml:"connections,named" doc:"Configured accounts of systems, by name. Names: a-z, 0-9, - and _, at most 63 characters."`
	// Routes are the ways from connections to connections.
	Routes []Route `yaml:"routes,named" doc:"Ways from one or more connections to one connection, by name. Names: a-z, 0-9, - and _, at most 63 characters."`

	// SchemaURL is for editors; the hub does not look at it.
	SchemaURL string `yaml:"$schema" doc:"Where the JSON Schema of this file is, for editors."`

	// File is the name that was given to Load or Parse.
	File string

	doc *document
}

// Warnings are what works and what a careful person would change, such as a secret written in the file; sorted by
// place. Nodes of this config add to them (Node.Warn), so ask after the connections have been opened.
func (c *Config) Warnings() Problems {
	if c.doc == nil {
		return nil
	}
	c.doc.mu.Lock()
	found := append(Problems(nil), c.doc.warnings...)
	c.doc.mu.Unlock()
	return Join(found)
}

// Root is the whole file as a Node, for problems that only whoever uses a setting can find:
// c.Root().Get("routes").Get("paid").Get("to").Problem(…). A Missing node when the file could not be read.
func (c *Config) Root() Node {
	if c.doc == nil {
		return Node{}
	}
	return Node{doc: c.doc, tree: c.doc.root}
}

// Connection returns the connection of that name.
func (c *Config) Connection(name string) (Connection, bool) {
	for _, connection := range c.Connections {
		if connection.Name == name {
			return connection, true
		}
	}
	return Connection{}, false
}

// Load reads and checks a file; "-" is the standard input. An error is Problems when the file could be read, and
// then Config holds what could be understood and defaults, so that further checks (connectors, expressions) can add their problems
// with Join. A Config that came with an error must not be run.
func Load(path string, o Options) (*Config, error) {
	var text []byte
	var err error
	name := path
	switch {
	case path == "-":
		name = "standard input"
		text, err = readLimited(os.Stdin)
	case o.ReadFile != nil:
		text, err = o.ReadFile(path)
	default:
		text, err = readAny(path)
	}
	if errors.Is(err, errTooLarge) {
		err = nil // Parse says it better
	}
	if err != nil {
		return nil, Problems{{File: name, Message: "the file cannot be read: " + reason(err), Fix: "check the path, and that this user may read it"}}
	}
	return Parse(name, text, o)
}

// readAny reads a config, which may come through a pipe.
func readAny(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(io.Reader(f))
}

// open reads text as far as a tree, and makes sure that it is a mapping.
func open(name string, text []byte, o Options) (*document, *tree, Problems) {
	const mark = "\uFEFF" // what some editors put before UTF-8
	if len(text) >= len(mark) && string(text[:len(mark)]) == mark {
		text = text[len(mark):]
	}
	var kept []byte // none of a file that is too large
	if len(text) <= MaxFile {
		text = plainJSON(text)
		kept = text
	}
	d := newDocument(name, string(kept), o.withDefaults())
	t, found := d.parse(text)
	if t != nil && t.kind == Null {
		return d, nil, append(found, d.emptyFile())
	}
	if t != nil && t.kind != Map && !t.broken {
		p := d.problem(t.line, t.column, "", "want a mapping, got "+t.kind.String(), "start with connections: and routes:")
		return d, nil, append(found, p)
	}
	if t == nil || t.broken {
		return d, nil, found
	}
	return d, t, found
}

// Parse checks a config that has been read already; name stands for the file in problems. Errors are as in Load.
func Parse(name string, text []byte, o Options) (*Config, error) {
	d, t, found := open(name, text, o)
	c := &Config{File: name, doc: d}
	if t == nil {
		_ = Node{doc: d}.Decode(c) // the defaults; that all else is missing goes without saying
		return c, Join(found).Err()
	}
	root := c.Root()
	problems := Join(found, root.Decode(c))
	problems = Join(problems, c.check(root, problems))
	return c, problems.Err()
}

var nameRule = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// checkName returns how to mend the name of a connection or a route, or "".
func checkName(name string) string {
	if nameRule.MatchString(name) {
		return ""
	}
	return "names start with a letter or digit and have at most 63 of a-z, 0-9, - and _"
}
