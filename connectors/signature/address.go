package signature

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// signedURL is the URL a provider signed: the registered address. The call's own query has to be the registered one,
// for bytes could otherwise move between the query and what is signed after it. Where the URL is all that is signed (last)
// providers add to the query, and the call's own is taken.
func signedURL(registered, target string, last bool) (string, error) {
	base, want, _ := strings.Cut(registered, "?")
	got := rawQuery(target)
	if fits := same(got, want); !last || fits {
		if !fits {
			return "", refuse(Mismatch, "the call's query is not the one in public_url, which is signed")
		}
		return registered, nil
	}
	if got == "" {
		return base, nil
	}
	return base + "?" + got, nil
}

func rawQuery(target string) string {
	target, _, _ = strings.Cut(target, "#")
	_, query, _ := strings.Cut(target, "?")
	return query
}

// The names of Settings.URLVariants.
const (
	withoutPort     = "without_port"
	withDefaultPort = "with_default_port"
	decodedEscapes  = "decoded"
)

var urlVariants = []string{withoutPort, withDefaultPort, decodedEscapes}

// spellings returns the URL as it is and in the other ways a provider may have written it.
func spellings(u string, variants []string) []string {
	out := []string{u}
	for _, variant := range variants {
		other := u
		switch variant {
		case withoutPort:
			other = withPort(u, "")
		case withDefaultPort:
			other = withPort(u, "default")
		case decodedEscapes:
			other = hubSpotDecoded(u)
		}
		if !slices.Contains(out, other) {
			out = append(out, other)
		}
	}
	return out
}

// withPort rewrites the port of an absolute URL and leaves every other byte alone.
func withPort(u, port string) string {
	scheme, rest, found := strings.Cut(u, "://")
	if !found {
		return u
	}
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority := rest[:end]
	host := authority
	if h, _, err := net.SplitHostPort(authority); err == nil {
		host = h
		if strings.Contains(h, ":") {
			host = "[" + h + "]"
		}
		if port != "" {
			return u
		}
	}
	switch {
	case port == "":
	case scheme == "http":
		host += ":80"
	default:
		host += ":443"
	}
	return scheme + "://" + host + rest[end:]
}

// hubSpotEscapes are the escapes HubSpot decodes before it signs a URL.
var hubSpotEscapes = strings.NewReplacer(
	"%3A", ":", "%2F", "/", "%3F", "?", "%40", "@", "%21", "!", "%24", "$", "%27", "'",
	"%28", "(", "%29", ")", "%2A", "*", "%2C", ",", "%3B", ";",
	"%3a", ":", "%2f", "/", "%3f", "?", "%2a", "*", "%2c", ",", "%3b", ";",
)

func hubSpotDecoded(u string) string { return hubSpotEscapes.Replace(u) }

// bodyHash holds the body against its hash in the query, where only the URL is signed.
func (v *Verifier) bodyHash(c *Request) error {
	name := v.set.BodyHashQuery
	if name == "" {
		return nil
	}
	claimed, err := queryParameter(c, name)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(c.Body)
	if !same(strings.ToLower(claimed), hex.EncodeToString(sum[:])) {
		return refuse(Mismatch, "the body is not the one whose hash is in the query parameter %s", name)
	}
	return nil
}

// queryParameter returns the one value of a query parameter.
func queryParameter(c *Request, name string) (string, error) {
	values, err := url.ParseQuery(rawQuery(c.URL))
	switch {
	case err != nil:
		return "", refuse(Malformed, "the query cannot be read")
	case len(values[name]) > 1:
		return "", refuse(Malformed, "query parameter %s comes %d times", name, len(values[name]))
	case values.Get(name) == "":
		return "", refuse(Missing, "no query parameter %s", name)
	}
	return values.Get(name), nil
}

// checkURL looks at the address a call gives for its certificate. It is never fetched: an address elsewhere
// means that the caller would like another key to be used.
func (r *Cert) checkURL(c *Request) error {
	value, err := single(c, r.URLHeader)
	if err != nil {
		return err
	}
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Port() != "" || u.Opaque != "" || u.Fragment != "" {
		return refuse(Certificate, "%s is not a plain https address", r.URLHeader)
	}
	host := strings.ToLower(u.Host)
	if !strings.HasSuffix(host, r.URLHostSuffix) || !hostOnly(host) {
		return refuse(Certificate, "%s is not on *%s", r.URLHeader, r.URLHostSuffix)
	}
	return nil
}

// hostOnly reports whether h is letters, digits, points and hyphens: nothing a lenient client could read as another host.
func hostOnly(h string) bool {
	for i := range len(h) {
		if c := h[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// checkSource holds the caller's address against Allow.
func (v *Verifier) checkSource(c *Request, t *trace) error {
	if !c.Remote.IsValid() {
		return t.refused("address", refuse(Source, "the caller's address is not known"))
	}
	addr := c.Remote.Unmap().WithZone("")
	if !slices.ContainsFunc(v.allow, func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return t.refused("address", refuse(Source, "the caller's address is in none of the %d allowed networks", len(v.allow)))
	}
	t.passed("address", "%s is allowed", addr)
	return nil
}
