package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode/utf8"
)

// Options say where a config gets what is not in its file. The zero value means the operating system.
type Options struct {
	// Getenv looks up an environment variable for ${env:NAME}. Default os.LookupEnv.
	Getenv func(name string) (value string, set bool)
	// ReadFile reads what ${file:/path} names, and the config itself in Load. Default: regular files of at most 1 MiB.
	ReadFile func(path string) ([]byte, error)
	// Mode says which permissions a file that holds a secret has, so that one everybody can read is warned of. Default: os.Stat, and
	// 0 for files below /run/secrets and in Kubernetes volumes, whose modes say nothing. When only ReadFile is given, modes are not looked at.
	Mode func(path string) (fs.FileMode, error)
}

func (o Options) withDefaults() Options {
	if o.Mode == nil && o.ReadFile == nil {
		o.Mode = secretMode
	}
	if o.Getenv == nil {
		o.Getenv = os.LookupEnv
	}
	if o.ReadFile == nil {
		o.ReadFile = readRegular
	}
	return o
}

// readRegular reads a file of at most MaxFile bytes. Devices and pipes are refused: they may never end.
func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, errors.New("it is a directory")
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f)
}

func readLimited(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err == nil && len(text) > MaxFile {
		err = errTooLarge
	}
	return text, err
}

var errTooLarge = errors.New("it has more than 1 MiB")

// secretMode returns the permissions of a file, or 0 where an orchestrator mounts secrets with modes that look open
// and are not: below /run/secrets and /var/run/secrets, and in Kubernetes volumes, whose entries are links into "..data".
func secretMode(path string) (fs.FileMode, error) {
	clean := filepath.Clean(path)
	for _, dir := range [...]string{"/run/secrets/", "/var/run/secrets/"} {
		if strings.HasPrefix(clean, dir) {
			return 0, nil
		}
	}
	if link, err := os.Readlink(clean); err == nil && strings.HasPrefix(link, "..data/") {
		return 0, nil
	}
	info, err := os.Stat(clean)
	if err != nil {
		return 0, err
	}
	return info.Mode().Perm(), nil
}

// segment says that value[at:at+size] came from raw[from:from+length], all in characters. A literal one
// character for character; any other as a whole.
type segment struct {
	at, size, from, length int
	literal                bool
}

const (
	// mostInOne bounds the problems of one text.
	mostInOne = 20
	// mostGrown bounds what all references of a file stand for together, in bytes: a text can name a large file many times.
	mostGrown = 8 << 20
)

var (
	envName       = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	referencesAll = regexp.MustCompile(`^\s*(\$\{(env:[A-Za-z0-9_]+|file:[^}]*)\}\s*)+$`)
)

// onlyReferences reports whether a text consists of ${…} without default values, so that showing it shows no value.
func onlyReferences(raw string) bool { return referencesAll.MatchString(raw) }

// resolve replaces each ${…} in a string. What it puts in is text: it is never read as YAML, and not looked through for further ${…}.
func (d *document) resolve(t *tree, path string) Problems {
	if !strings.Contains(t.raw, "${") {
		return nil
	}
	var out strings.Builder
	var places []place // of the characters of raw, once one of them is needed
	rest, from, at := t.raw, 0, 0
	put := func(text string, length int, literal bool) {
		size := utf8.RuneCountInString(text)
		t.segments = append(t.segments, segment{at, size, from, length, literal})
		out.WriteString(text)
		from, at = from+length, at+size
	}
	for {
		i := strings.Index(rest, "${")
		if i < 0 {
			put(rest, utf8.RuneCountInString(rest), true)
			break
		}
		if i > 0 && rest[i-1] == '$' { // $${ is a ${ that stays
			put(rest[:i-1], utf8.RuneCountInString(rest[:i-1]), true)
			put("${", 3, false)
			rest = rest[i+2:]
			continue
		}
		put(rest[:i], utf8.RuneCountInString(rest[:i]), true)
		reference, after, closed := strings.Cut(rest[i+2:], "}")
		if !closed {
			d.breaks(t, path, &places, from, "${ without a }", "close it; for the text ${ itself write $${")
			break
		}
		text, message, fix := d.lookUp(reference, t)
		if d.grown += len(text); d.grown > mostGrown {
			text, message, fix = "", fmt.Sprintf("references in this file stand for more than %s together", Size(mostGrown)), "name large files by their path where a setting takes one"
		}
		if message != "" {
			d.breaks(t, path, &places, from, message, fix)
		}
		t.expanded = true
		put(text, utf8.RuneCountInString(reference)+3, false)
		rest = after
	}
	t.value = out.String()
	return t.trouble
}

// breaks notes what is wrong with the reference that starts at offset, in characters, of t.raw.
func (d *document) breaks(t *tree, path string, places *[]place, offset int, message, fix string) {
	t.broken = true
	if len(t.trouble) == mostInOne {
		return
	}
	if len(t.trouble) == 0 {
		*places, _, _ = d.align(t)
	}
	line, column := t.line, t.column
	if offset < len(*places) {
		line, column = (*places)[offset].line, (*places)[offset].column
	}
	t.trouble = append(t.trouble, d.problem(line, column, path, message, fix))
}

// lookUp returns what a reference stands for, or what is wrong with it.
func (d *document) lookUp(reference string, t *tree) (text, message, fix string) {
	kind, name, found := strings.Cut(reference, ":")
	switch {
	case found && kind == "env":
		name, fallback, hasFallback := strings.Cut(name, ":-")
		if !envName.MatchString(name) {
			return "", "not the name of an environment variable", "names are letters, digits and _, such as ${env:STRIPE_API_KEY}"
		}
		value, set := d.o.Getenv(name)
		switch {
		case hasFallback && value == "":
			return fallback, "", ""
		case !set:
			return "", fmt.Sprintf("the environment variable %s is not set", name), fmt.Sprintf("set it, or give a default: ${env:%s:-value}", name)
		}
		return value, "", ""
	case found && kind == "file" && name != "":
		content, err := d.readOnce(name)
		if err != nil {
			return "", fmt.Sprintf("the file %s cannot be read: %s", name, reason(err)), "create it, and let the user that the hub runs as read it"
		}
		t.files = append(t.files, name)
		return content, "", ""
	}
	return "", "${…} without env: or file:", "write ${env:NAME}, ${env:NAME:-default} or ${file:/path}; for the text ${ itself write $${"
}

// readOnce reads what ${file:…} names, without one newline at its end, once for the whole config: two settings that
// name the same file must not see two versions of it.
func (d *document) readOnce(path string) (string, error) {
	if content, ok := d.read[path]; ok {
		return content.text, content.err
	}
	raw, err := d.o.ReadFile(path)
	if err == nil && len(raw) > MaxFile {
		err = errTooLarge
	}
	text := ""
	if err == nil {
		text = strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	}
	d.read[path] = fileText{text, err}
	return text, err
}

// reason is the part of a file error that says why, without the path that the message holds already.
func reason(err error) string {
	if pathError, ok := errors.AsType[*fs.PathError](err); ok {
		return pathError.Err.Error()
	}
	return err.Error()
}
