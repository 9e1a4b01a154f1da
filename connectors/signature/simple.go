package signature

import (
	"crypto/x509"
	"mime"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// judgeNothing is for none, and for ip-allow, whose addresses are looked at before.
func judgeNothing(_ *Verifier, _ *Request, t *trace) error {
	t.passed("proof", "this scheme asks for none")
	return nil
}

// basic checks the settings of HTTP basic authentication; passwords become keys.
func (ch *checker) basic(v *Verifier) {
	if ch.set.Username == "" || strings.Contains(ch.set.Username, ":") {
		ch.add("username", "set the user name that was given to the provider", "the user name is empty or holds a colon")
	}
	if ch.set.Password.IsZero() && len(ch.set.Secrets) == 0 {
		ch.add("password", "set it; with an empty password anybody could call", "scheme %s needs a password, and it is missing or empty", ch.scheme.Name)
	}
	if !ch.set.Password.IsZero() {
		v.keys = append(v.keys, key{text: ch.set.Password.Reveal()})
	}
	for _, s := range ch.set.Secrets {
		if s.IsZero() {
			ch.add("secrets", "remove the empty one", "a further password is empty")
		}
		k := key{text: s.Reveal()}
		if len(v.keys) > 0 {
			k.until = ch.set.SecretsUntil
		}
		v.keys = append(v.keys, k)
	}
	v.place = place{header: "Authorization"}
}

func judgeBasic(v *Verifier, c *Request, t *trace) error {
	value, err := single(c, "Authorization")
	if err != nil {
		return t.refused("credentials", err)
	}
	const prefix = "Basic "
	if len(value) < len(prefix) || !strings.EqualFold(value[:len(prefix)], prefix) {
		return t.refused("credentials", refuse(Malformed, "header Authorization does not begin with %q", prefix))
	}
	plain, ok := fromBase64(nil, value[len(prefix):])
	if !ok {
		return t.refused("credentials", refuse(Malformed, "header Authorization is not base64"))
	}
	user, password, ok := strings.Cut(string(plain), ":")
	if !ok {
		return t.refused("credentials", refuse(Malformed, "header Authorization has no colon between user and password"))
	}
	t.passed("credentials", "found in header Authorization")
	userFits := same(user, v.set.Username)
	index, err := v.compareText(c, password)
	if err == nil && !userFits {
		err = refuse(Mismatch, "the user name is another one")
	}
	if err != nil {
		return t.refused("comparison", err)
	}
	t.matched(v, index)
	return nil
}

// judgeToken compares a shared token that comes with the call.
func judgeToken(v *Verifier, c *Request, t *trace) error {
	value, err := v.token(c)
	if err != nil {
		return t.refused("token", err)
	}
	t.passed("token", "found in %s: %d characters", v.place.where(), len(value))
	index, err := v.compareText(c, value)
	if err != nil {
		return t.refused("comparison", err)
	}
	t.matched(v, index)
	return nil
}

func (v *Verifier) token(c *Request) (string, error) {
	if v.place.field != "" && isJSON(c) {
		return jsonText(c.Body, v.place.field)
	}
	var room [1]string
	f, err := v.place.find(c, room[:0])
	if err != nil {
		return "", err
	}
	return f.values[0], nil
}

func isJSON(c *Request) bool {
	media, _, err := mime.ParseMediaType(c.Header.Get("Content-Type"))
	return err == nil && (media == "application/json" || strings.HasSuffix(media, "+json"))
}

// compareText compares what was presented with every secret, as text.
func (v *Verifier) compareText(c *Request, presented string) (int, error) {
	match, stale := -1, false
	for i := range v.keys {
		switch k := &v.keys[i]; {
		case !same(presented, k.text):
		case !k.valid(c.At):
			stale = true
		case match < 0:
			match = i
		}
	}
	switch {
	case match >= 0:
		return match, nil
	case stale:
		return -1, v.outOfTime()
	}
	return -1, refuse(Mismatch, "%s holds none of the %d configured secrets", v.place.where(), len(v.keys))
}

// mtls checks the settings of client certificates.
func (ch *checker) mtls() {
	if ch.set.CAPEM == "" {
		ch.add("ca_pem", "paste the PEM of the authority that issues the client certificates", "scheme %s needs the authority of the client certificates", ch.scheme.Name)
	} else if _, err := parseCertificates(ch.set.CAPEM); err != nil {
		ch.add("ca_pem", "paste it whole, from BEGIN to END", "the authority cannot be read: %v", err)
	}
	if len(ch.set.AllowedSAN) == 0 {
		ch.add("allowed_san", "set the name in the client's certificate; an authority alone would let in everybody it knows", "scheme %s needs the name a client certificate has to carry", ch.scheme.Name)
	}
}

// judgeMTLS checks the client's certificate. The handshake has proved that the client holds its key; whether the certificate is one to trust is judged
// here, so that each connection can have its own authority.
func judgeMTLS(v *Verifier, c *Request, t *trace) error {
	if c.TLS == nil || len(c.TLS.PeerCertificates) == 0 {
		return t.refused("client certificate", refuse(Missing, "the call came without a client certificate"))
	}
	leaf := c.TLS.PeerCertificates[0]
	t.passed("client certificate", "came with the call, valid from %s to %s", leaf.NotBefore.Format("2006-01-02"), leaf.NotAfter.Format("2006-01-02"))
	authorities, err := parseCertificates(v.set.CAPEM)
	if err != nil {
		return t.refused("authority", refuse(Certificate, "%v", err))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, a := range authorities {
		roots.AddCert(a)
	}
	for _, p := range c.TLS.PeerCertificates[1:] {
		between.AddCert(p)
	}
	switch {
	case c.At.After(leaf.NotAfter):
		return t.refused("authority", refuse(Expired, "the client certificate has expired"))
	case c.At.Before(leaf.NotBefore):
		return t.refused("authority", refuse(Future, "the client certificate is not valid yet"))
	}
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: c.At, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return t.refused("authority", refuse(Certificate, "the client certificate is not from the authority in ca_pem, or not for clients"))
	}
	if !slices.ContainsFunc(v.set.AllowedSAN, func(name string) bool { return carries(leaf, name) }) {
		return t.refused("name", refuse(Certificate, "the client certificate does not carry the name in allowed_san"))
	}
	t.passed("name", "the certificate carries an allowed name")
	return nil
}

// carries reports whether the certificate has exactly this name; wildcards in it do not count.
func carries(leaf *x509.Certificate, name string) bool {
	if addr, err := netip.ParseAddr(name); err == nil {
		return slices.ContainsFunc(leaf.IPAddresses, func(ip net.IP) bool {
			got, ok := netip.AddrFromSlice(ip)
			return ok && got.Unmap().Compare(addr.Unmap()) == 0
		})
	}
	if slices.ContainsFunc(leaf.DNSNames, func(n string) bool { return strings.EqualFold(n, name) }) || slices.Contains(leaf.EmailAddresses, name) {
		return true
	}
	for _, u := range leaf.URIs {
		if u.String() == name {
			return true
		}
	}
	return false
}
