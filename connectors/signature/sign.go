package signature

import (
	"cmp"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tidewire/tidewire/config"
)

// Signing is the YAML block "sign:": how our own calls prove where they come from. Every scheme of the kind hmac can be signed with,
// the generic one included, and standard-webhooks-v1a.
type Signing struct {
	Scheme  string          `yaml:"scheme" doc:"standard-webhooks, standard-webhooks-v1a, stripe, another scheme of the kind hmac, or hmac spelled out. Default: standard-webhooks."`
	Secret  config.Secret   `yaml:"secret" doc:"The signing secret, as the receiver has it; for standard-webhooks-v1a the private key (whsk_…)."`
	Secrets []config.Secret `yaml:"secrets,one" doc:"Several of them during a rotation: calls carry a signature of each, where the scheme can list several; otherwise of the first."`

	Header   string  `yaml:"header" doc:"For hmac: the header the signature is written to."`
	Format   *Format `yaml:"format" doc:"For hmac: how the signature is written there. Default: plain."`
	Hash     string  `yaml:"hash" enum:"sha256|sha384|sha512" doc:"For hmac: the hash. Default: sha256."`
	Encoding string  `yaml:"encoding" enum:"hex|base64" doc:"For hmac: the encoding of the signature. Default: hex."`
	Key      string  `yaml:"key" enum:"utf8|hex|base64" doc:"For hmac: how bytes are made of the secret. Default: utf8."`
	KeyStrip string  `yaml:"key_strip" doc:"For hmac: what is removed from the front of the secret, such as whsec_."`
	Signed   string  `yaml:"signed" doc:"For hmac: the text that is signed. A {h:NAME} in it is sent with the event's id. Default: {body}."`
	TS       *TS     `yaml:"ts" doc:"For hmac: where the timestamp is written and how."`
}

// Check reports every mistake in the settings as NewSigner does.
func (s *Signing) Check() error {
	_, err := NewSigner(*s)
	return err
}

// SignRequest is a call to be signed.
type SignRequest struct {
	// ID is the message's identity, the same on every attempt. Schemes that send one need it.
	ID string
	// At is the time of this attempt.
	At time.Time
	// Method and URL are the call's, for schemes that sign them.
	Method, URL string
	// Body is exactly what is sent.
	Body []byte
}

// Signer signs calls. Immutable and safe for concurrent use.
type Signer struct {
	v        *Verifier
	idHeader string
	private  []ed25519.PrivateKey
}

// NewSigner checks settings and makes a signer of them. Errors are as New's.
func NewSigner(s Signing) (*Signer, error) {
	name := cmp.Or(s.Scheme, "standard-webhooks")
	scheme, ok := Lookup(name)
	if !ok {
		return nil, unknownScheme(name)
	}
	if scheme.Rules.Scheme == kindEd25519 && scheme.Name != kindEd25519 {
		return newPublicSigner(scheme, s)
	}
	if scheme.Rules.Scheme != kindHMAC || scheme.Rules.Field != "" {
		return nil, config.Fault{Key: "scheme", Message: "calls cannot be signed by scheme " + scheme.Name,
			Fix: "use standard-webhooks, standard-webhooks-v1a, stripe or hmac"}
	}
	set := Settings{Scheme: name, Secret: s.Secret, Secrets: s.Secrets, Header: s.Header, Format: s.Format, Hash: s.Hash, Encoding: s.Encoding,
		Key: s.Key, KeyStrip: s.KeyStrip, Signed: s.Signed, TS: s.TS}
	if strings.Contains(scheme.Rules.Signed+s.Signed, "{url}") {
		set.PublicURL = "https://unused.invalid/" // the address is each call's own
	}
	v, err := New(set)
	if err != nil {
		return nil, err
	}
	if v.signed.has(formPart, formKVPart, webhookIDPart) {
		return nil, config.Fault{Key: "scheme", Message: "calls cannot be signed by scheme " + scheme.Name + ", which signs forms or identities we do not have",
			Fix: "use standard-webhooks, standard-webhooks-v1a, stripe or hmac"}
	}
	return &Signer{v: v, idHeader: v.signed.firstHeader()}, nil
}

// newPublicSigner makes a signer with private Ed25519 keys.
func newPublicSigner(scheme Scheme, s Signing) (*Signer, error) {
	ch := &checker{scheme: scheme, user: Settings{Header: s.Header, Format: s.Format, Hash: s.Hash, Encoding: s.Encoding, Key: s.Key,
		KeyStrip: s.KeyStrip, Signed: s.Signed, TS: s.TS}}
	ch.named()
	ch.set.Secret, ch.set.Secrets, ch.set.KeyStrip = s.Secret, s.Secrets, "whsk_"
	v := &Verifier{scheme: scheme, set: ch.set}
	ch.rules(v)
	signer := &Signer{v: v, idHeader: v.signed.firstHeader()}
	for _, secret := range ch.secrets() {
		b, err := secretBytes(secret.text, "base64", "whsk_")
		switch {
		case err == nil && len(b) == ed25519.SeedSize:
			signer.private = append(signer.private, ed25519.NewKeyFromSeed(b))
		case err == nil && len(b) == ed25519.PrivateKeySize:
			signer.private = append(signer.private, ed25519.NewKeyFromSeed(b[:ed25519.SeedSize]))
		default:
			ch.add(secret.path, "paste the whole private key, whsk_ and base64 of 32 or 64 bytes", "the private key cannot be read")
		}
	}
	if err := errors.Join(ch.faults...); err != nil {
		return nil, err
	}
	return signer, nil
}

// firstHeader is the header that carries the message's identity: the first one the text names.
func (t template) firstHeader() string {
	for _, p := range t {
		if p.kind == headerPart {
			return canonical(p.text)
		}
	}
	return ""
}

// Sign makes a signer of the settings and signs one call. For many calls keep the Signer.
func Sign(s Signing, r SignRequest) (http.Header, error) {
	signer, err := NewSigner(s)
	if err != nil {
		return nil, err
	}
	return signer.Sign(r)
}

// Sign returns the headers to send with the call: identity, timestamp and signature, as far as the scheme has them. The error says
// what the call lacks.
func (s *Signer) Sign(r SignRequest) (http.Header, error) {
	h := make(http.Header, 3)
	err := s.SignTo(r, func(name, value string) { h[name] = []string{value} })
	if err != nil {
		return nil, err
	}
	return h, nil
}

// SignTo gives each header that Sign returns to add, once: name in its canonical form, and value. After an error the call must not be made.
func (s *Signer) SignTo(r SignRequest, add func(name, value string)) error {
	v := s.v
	e := env{c: &Request{Method: r.Method, Body: r.Body}, set: &v.set, url: r.URL}
	if s.idHeader != "" {
		if r.ID == "" {
			return fmt.Errorf("sign: scheme %s sends the message's id in %s, and the call has none", v.scheme.Name, s.idHeader)
		}
		for _, p := range v.signed {
			if p.kind == headerPart && p.stop != "" && strings.Contains(r.ID, p.stop) {
				return fmt.Errorf("sign: the message's id holds %q, which separates it from what follows in the signed text", p.stop)
			}
			if p.kind == headerPart {
				e.headers = append(e.headers, pair{p.text, r.ID})
			}
		}
		if s.idHeader != v.ts.header && s.idHeader != v.place.header {
			add(s.idHeader, r.ID)
		}
	}
	if v.ts.on() {
		e.ts = v.ts.format(r.At)
		if v.ts.header != "" && v.ts.header != v.place.header {
			add(v.ts.header, e.ts)
		}
	}
	add(v.place.header, v.place.format.write(e.ts, s.signatures(&e)))
	return nil
}

// signatures makes one for each key.
func (s *Signer) signatures(e *env) []string {
	v := s.v
	out := make([]string, 0, 2)
	if s.private != nil {
		message := v.signed.build(e)
		for _, k := range s.private {
			out = append(out, base64.StdEncoding.EncodeToString(ed25519.Sign(k, message)))
		}
		return out
	}
	for i := range v.keys {
		m := v.keys[i].macs.Get().(*mac)
		sum := m.sum(v.signed, e)
		if v.place.encoding == encodingBase64 {
			out = append(out, base64.StdEncoding.EncodeToString(sum))
		} else {
			out = append(out, hex.EncodeToString(sum))
		}
		v.keys[i].macs.Put(m)
	}
	return out
}

// format writes a time the way parse reads it.
func (t *timestamp) format(at time.Time) string {
	switch t.unit {
	case "rfc3339":
		return at.UTC().Format(time.RFC3339)
	case "ms":
		return strconv.FormatInt(at.UnixMilli(), 10)
	}
	return strconv.FormatInt(at.Unix(), 10)
}

// write puts signatures into a header's value. Formats that cannot list several take the first.
func (f Format) write(ts string, signatures []string) string {
	var b strings.Builder
	switch f.Kind {
	case "kv":
		if f.TS != "" {
			b.WriteString(f.TS + f.KVSep + ts)
		}
		for _, s := range signatures {
			if b.Len() > 0 {
				b.WriteString(f.PairSep)
			}
			b.WriteString(f.Sig + f.KVSep + s)
		}
	case "list":
		for i, s := range signatures {
			if i > 0 {
				b.WriteString(f.Sep)
			}
			b.WriteString(f.Version + f.VersionSep + s)
		}
	case "prefix":
		for i, s := range signatures {
			if i > 0 && f.MultiSep == "" {
				break
			}
			if i > 0 {
				b.WriteString(f.MultiSep)
			}
			b.WriteString(f.Prefix + s)
		}
	default:
		b.WriteString(signatures[0])
	}
	return b.String()
}
