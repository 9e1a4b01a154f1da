package rest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/tidewire/tidewire/config"
)

// Settings say how a connection reaches its system over HTTP. Connectors embed them in their own.
type Settings struct {
	// Auth is how requests prove who they come from; nil: not at all.
	Auth *Auth `yaml:"auth" doc:"How requests prove who they come from; not at all when absent."`
	// AllowPrivate allows connections to private and loopback addresses. Link-local and cloud metadata addresses stay refused.
	AllowPrivate bool `yaml:"allow_private" doc:"Allow connections to private and loopback addresses, which are refused otherwise. Link-local and cloud metadata addresses stay refused."`
	// AllowAddresses are addresses or ranges that are allowed whatever they are.
	AllowAddresses []string `yaml:"allow_addresses" doc:"Addresses or ranges, such as 10.1.0.0/16, that are allowed beside the public ones, whatever they are."`
	// TLS may be nil.
	TLS *TLS `yaml:"tls" doc:"Client certificate and further authorities for https."`
	// Proxy is a URL; secret because it may hold a password.
	Proxy config.Secret `yaml:"proxy" doc:"Address of a proxy, http://host:port or http://user:password@host:port. What the environment says is not used. The addresses that a target's name stands for are then the proxy's to judge."`
	// MaxResponse is how much of an answer's body is read, in bytes; 0 means 64 KiB.
	MaxResponse config.Size `yaml:"max_response" default:"64KiB" range:"1KiB..64MiB" doc:"How much of an answer is read."`
}

// Auth is one way of proving who a request comes from.
type Auth struct {
	// Scheme is basic, bearer, api_key or oauth2 (client credentials). Client certificates are set under tls.
	Scheme   string        `yaml:"scheme,required" enum:"basic|bearer|api_key|oauth2" doc:"basic, bearer, api_key or oauth2 (client credentials). Client certificates are set under tls."`
	Username string        `yaml:"username" doc:"For basic."`
	Password config.Secret `yaml:"password" doc:"For basic."`
	Token    config.Secret `yaml:"token" doc:"For bearer."`
	Key      config.Secret `yaml:"key" doc:"For api_key."`
	// Header is X-API-Key when it and Query are empty.
	Header       string        `yaml:"header" doc:"The header that carries the api_key; X-API-Key when absent."`
	Query        string        `yaml:"query" doc:"The query parameter that carries the api_key instead of a header."`
	TokenURL     string        `yaml:"token_url" doc:"Where oauth2 tokens come from; https."`
	ClientID     string        `yaml:"client_id" doc:"For oauth2."`
	ClientSecret config.Secret `yaml:"client_secret" doc:"For oauth2."`
	Scopes       []string      `yaml:"scopes" doc:"Asked for with the oauth2 token."`
	Audience     string        `yaml:"audience" doc:"Asked for with the oauth2 token, where the server wants one."`
}

// TLS are settings for https. TLS 1.2 is the least that is spoken, and there is no way to trust everybody. All are texts in PEM.
type TLS struct {
	CA          string        `yaml:"ca" doc:"PEM certificates of authorities that are trusted beside the system's, such as \"${file:/etc/tidewire/ca.pem}\"."`
	Certificate string        `yaml:"certificate" doc:"The client's certificate in PEM, with its chain."`
	Key         config.Secret `yaml:"key" doc:"The private key of certificate in PEM."`
	ServerName  string        `yaml:"server_name" doc:"The name in the server's certificate where it differs from the address."`
}

// Report takes one mistake in settings: its key below the connection, with dots between levels; what is wrong; what to do.
type Report func(key, message, fix string)

// Reporter gathers reports as problems of the settings at n. Where the decoder has found a mistake already, it stays alone.
func Reporter(n config.Node, into *config.Problems) Report {
	return func(key, message, fix string) {
		at := n
		for k := range strings.SplitSeq(key, ".") {
			at = at.Get(k)
		}
		if !slices.ContainsFunc(*into, func(p config.Problem) bool { return p.Path == at.Path() }) {
			*into = append(*into, at.Problem(message, fix))
		}
	}
}

func (s *Settings) prefixes(report Report) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range s.AllowAddresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, aerr := netip.ParseAddr(text)
			p, err = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), aerr
		}
		if err != nil || p.Addr().Is4In6() {
			report("allow_addresses", fmt.Sprintf("%q is not an IP address or range", text), "write an address such as 10.1.2.3 or a range such as 10.1.0.0/16; names are not taken, because what they stand for changes")
			continue
		}
		out = append(out, p.Masked())
	}
	return out
}

func (s *Settings) secrets() []config.Secret {
	out := []config.Secret{s.Proxy}
	if u, err := url.Parse(s.Proxy.Reveal()); err == nil && u.User != nil {
		password, _ := u.User.Password()
		out = append(out, config.NewSecret(password))
	}
	if a := s.Auth; a != nil {
		out = append(out, a.Password, a.Token, a.Key, a.ClientSecret)
	}
	return out
}

// config builds what crypto/tls wants. t may be nil.
func (t *TLS) config(report Report) *tls.Config {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"http/1.1"},
		ClientSessionCache: tls.NewLRUClientSessionCache(8),
	}
	if t == nil {
		return c
	}
	c.ServerName = t.ServerName
	if t.CA != "" {
		pool, err := x509.SystemCertPool()
		if err != nil { // a machine without a store of its own
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(t.CA)) {
			report("tls.ca", "holds no certificate in PEM", `read it from a file: "${file:/path/to/ca.pem}"`)
		}
		c.RootCAs = pool
	}
	switch {
	case t.Certificate != "" && t.Key.IsZero():
		report("tls.key", "is missing beside tls.certificate", `read it from a file: "${file:/path/to/key.pem}"`)
	case t.Certificate == "" && !t.Key.IsZero():
		report("tls.certificate", "is missing beside tls.key", `read it from a file: "${file:/path/to/certificate.pem}"`)
	case t.Certificate != "":
		pair, err := tls.X509KeyPair([]byte(t.Certificate), []byte(t.Key.Reveal()))
		if err != nil {
			report("tls.certificate", "and tls.key are not a pair in PEM", "check that both files are what they should be and belong together")
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c
}

// fixed checks the settings and returns what goes with every request: a header line, or a query parameter, or neither.
func (a *Auth) fixed(report Report) (field Field, query string) {
	a.strangers(report)
	need := func(key string, present bool) {
		if !present {
			report("auth."+key, "missing", "auth scheme "+a.Scheme+" needs it")
		}
	}
	switch a.Scheme {
	case "basic":
		need("username", a.Username != "")
		if strings.Contains(a.Username, ":") {
			report("auth.username", "holds a colon", "basic authentication cannot carry one in a user name")
		}
		r := basicAuth(a.Username, a.Password.Reveal())
		return Field{"Authorization", r}, ""
	case "bearer":
		need("token", !a.Token.IsZero())
		field = Field{"Authorization", "Bearer " + a.Token.Reveal()}
		if err := CheckField(field); err != nil {
			report("auth.token", "holds line breaks or control characters", "remove them; a file often ends in a line break")
		}
	case "api_key":
		need("key", !a.Key.IsZero())
		switch {
		case a.Query != "" && a.Header != "":
			report("auth.query", "is set together with auth.header", "keep one")
		case a.Query != "":
			return Field{}, url.Values{a.Query: {a.Key.Reveal()}}.Encode()
		}
		field = Field{a.Header, a.Key.Reveal()}
		if a.Header == "" {
			field.Name = "X-API-Key"
		}
		if err := CheckField(Field{field.Name, ""}); err != nil {
			report("auth.header", err.Error(), "write the header's name, such as X-API-Key")
		}
		if err := CheckField(Field{"X", field.Value}); err != nil {
			report("auth.key", "holds line breaks or control characters", "remove them; a file often ends in a line break")
		}
	case "oauth2":
		need("client_id", a.ClientID != "")
		need("client_secret", !a.ClientSecret.IsZero())
		need("token_url", a.TokenURL != "")
	case "":
		report("auth.scheme", "is missing", "write basic, bearer, api_key or oauth2")
	default:
		report("auth.scheme", fmt.Sprintf("%q is not known", a.Scheme), "write basic, bearer, api_key or oauth2; client certificates are set under tls")
	}
	return field, ""
}

// strangers reports settings that belong to another scheme: they would be silently without effect.
func (a *Auth) strangers(report Report) {
	for _, s := range []struct {
		scheme, key string
		set         bool
	}{
		{"basic", "username", a.Username != ""}, {"basic", "password", !a.Password.IsZero()},
		{"bearer", "token", !a.Token.IsZero()},
		{"api_key", "key", !a.Key.IsZero()}, {"api_key", "header", a.Header != ""}, {"api_key", "query", a.Query != ""},
		{"oauth2", "token_url", a.TokenURL != ""}, {"oauth2", "client_id", a.ClientID != ""}, {"oauth2", "client_secret", !a.ClientSecret.IsZero()},
		{"oauth2", "scopes", len(a.Scopes) > 0}, {"oauth2", "audience", a.Audience != ""},
	} {
		if s.set && a.Scheme != "" && s.scheme != a.Scheme {
			report("auth."+s.key, "is not used by auth scheme "+a.Scheme, "it belongs to "+s.scheme+"; remove it or change the scheme")
		}
	}
}

// CheckField says what keeps f from being sent as a header line: a name that is no token, a value with line breaks or other control
// characters, or a name that belongs to the framing of the message. Its errors do not show the value.
func CheckField(f Field) error {
	if !token(f.Name) {
		return fmt.Errorf("%.64q is not a header name", f.Name)
	}
	for i := range len(f.Value) {
		if c := f.Value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("header %s holds line breaks or control characters", f.Name)
		}
	}
	switch len(f.Name) {
	case 2, 4, 6, 7, 10, 14, 16, 17: // the lengths of the names below: this runs for every line that is sent
		switch strings.ToLower(f.Name) {
		case "host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect", "keep-alive", "proxy-connection":
			return errors.New("header " + f.Name + " belongs to the transport and cannot be set")
		}
	}
	return nil
}

// token reports whether s is an RFC 9110 token.
func token(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c|0x20 >= 'a' && c|0x20 <= 'z', c >= '0' && c <= '9', c == '-':
		case strings.IndexByte("_.!#$%&'*+^`|~", c) < 0:
			return false
		}
	}
	return s != ""
}

// visible reports whether s is ASCII without spaces and control characters.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
