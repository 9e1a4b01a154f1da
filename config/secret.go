package config

import (
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// mask is what every Secret prints as.
const mask = "***"

// Secret is a setting that must not be seen: a password, a token, a signing key. However it is printed (fmt with any
// verb, JSON, YAML, slog, inside an error or another struct) it reads "***"; an empty one reads "". Only Reveal gives
// the text, so a search for Reveal finds every place where a secret leaves its shell.
//
// The zero value is the empty secret. Secrets are compared with Equal; == does not compile.
type Secret struct {
	_ [0]func() // == would compare pointers, and would not be constant-time if it compared text
	// A pointer, because fmt reaches the unexported fields of other people's structs without asking for their methods: it
	// then prints an address.
	text *string
}

// NewSecret wraps a text that came from elsewhere than the config file.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{text: &text}
}

// Reveal returns the text. The caller must not log it, put it into an error or keep it longer than needed.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.text == nil }

// Equal reports whether presented is the secret. It takes the same time whatever presented is, its length included. An
// empty secret equals nothing, not even the empty text: what was never set must not open a door.
func (s Secret) Equal(presented string) bool {
	want, got := sha256.Sum256([]byte(s.Reveal())), sha256.Sum256([]byte(presented))
	return subtle.ConstantTimeCompare(want[:], got[:]) == 1 && !s.IsZero()
}

// String returns "***", or "" for the empty secret.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return mask
}

// Format prints String for every verb and flag, %#v, %x and %q included.
func (s Secret) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, s.String())
}

// GoString returns String.
func (s Secret) GoString() string { return s.String() }

// LogValue returns String, for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText returns String; it serves JSON, XML and everything else that asks for text.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML returns String.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }
