package signature_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

// forgery is a call made of an accepted one by somebody without the key.
type forgery struct {
	name string
	call signature.Request
}

// leastForgeries is how many are tried on each scheme.
const leastForgeries = 40

func clone(c signature.Request) signature.Request {
	c.Header = c.Header.Clone()
	c.Body = bytes.Clone(c.Body)
	return c
}

// TestForgeries makes forged calls of an accepted one, for each scheme, and none may pass.
func TestForgeries(t *testing.T) {
	t.Parallel()
	for _, s := range subjects(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			v, err := signature.New(s.settings)
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Verify(s.call); err != nil {
				t.Fatalf("the call the forgeries are made of is refused: %v", err)
			}
			all := forgeries(t, v.Scheme(), s)
			if len(all) < leastForgeries {
				t.Errorf("%d forgeries, want at least %d", len(all), leastForgeries)
			}
			for i, f := range all {
				err := v.Verify(f.call)
				if err == nil {
					t.Errorf("%s: accepted", f.name)
					continue
				}
				if r := signature.AsRefusal(err); r == nil || r.Code == "" || r.Text == "" {
					t.Errorf("%s: refused by %#v, which does not say why", f.name, err)
				}
				keepsSecrets(t, s, f.name, err.Error())
				if i%5 == 0 { // explaining is slow
					x := v.Explain(f.call)
					if x.Accepted {
						t.Errorf("%s: the explanation says accepted", f.name)
					}
					keepsSecrets(t, s, f.name, x.String())
				}
			}
		})
	}
}

// keepsSecrets looks for what must not get into logs: the secret, and what the good call proves itself with.
func keepsSecrets(t *testing.T, s subject, name, text string) {
	t.Helper()
	for _, secret := range []string{s.settings.Secret.Reveal(), s.settings.Password.Reveal(), s.call.Header.Get(rules(s).Header)} {
		if len(secret) > 5 && strings.Contains(text, secret) {
			t.Errorf("%s: a secret or signature is in %q", name, text)
		}
	}
}

func forgeries(t testing.TB, scheme signature.Scheme, s subject) []forgery {
	var out []forgery
	add := func(name string, change func(c *signature.Request)) {
		c := clone(s.call)
		change(&c)
		out = append(out, forgery{name, c})
	}
	for _, name := range proofHeaders(s) {
		forgeHeader(add, s, name)
	}
	if ts := rules(s).TS; ts != nil {
		forgeTime(add, s, ts)
	}
	if !s.unsignedBody {
		forgeBody(add, s)
	}
	forgeRest(t, add, s)
	forgeKeys(t, add, scheme, s)
	return out
}

// rules are the rules that the subject is judged by.
func rules(s subject) signature.Settings {
	scheme, _ := signature.Lookup(s.settings.Scheme)
	if scheme.Rules.Header+scheme.Rules.Query+scheme.Rules.Field == "" {
		return s.settings
	}
	return scheme.Rules
}

// proofHeaders are the headers that prove something, as far as each of their bytes counts.
func proofHeaders(s subject) []string {
	r := rules(s)
	names := map[string]bool{}
	for _, h := range append(slices.Collect(maps.Keys(r.RequireEqual)), r.Header) {
		names[h] = true
	}
	if r.TS != nil {
		names[r.TS.Header] = true
	}
	if r.KeyID != nil {
		names[r.KeyID.Header] = true
	}
	for piece := range strings.SplitSeq(r.Signed, "{h:") {
		if name, _, ok := strings.Cut(piece, "}"); ok && len(s.call.Header.Values(name)) > 0 {
			names[name] = true
		}
	}
	delete(names, "")
	return slices.Sorted(maps.Keys(names))
}

// several reports whether the scheme takes the header more than once, or with other entries beside the right one.
func several(s subject, header string) bool {
	f := rules(s).Format
	return strings.EqualFold(header, rules(s).Header) && f != nil && (f.Kind == "list" || f.MultiSep != "")
}

func forgeHeader(add func(string, func(*signature.Request)), s subject, name string) {
	value := s.call.Header.Get(name)
	set := func(what, v string) {
		if v != value {
			add(fmt.Sprintf("%s %s", name, what), func(c *signature.Request) { c.Header[http.CanonicalHeaderKey(name)] = []string{v} })
		}
	}
	add(name+" missing", func(c *signature.Request) { c.Header.Del(name) })
	set("empty", "")
	set("one space", " ")
	set("without its last character", value[:len(value)-1])
	set("without its first character", value[1:])
	set("half", value[:len(value)/2])
	set("with a character more", value+"A")
	set("with padding more", value+"=")
	set("with a line end", value+"\n")
	set("with NUL", value+"\x00")
	set("doubled", value+value)
	set("reversed", reversed(value))
	set("other at the start", other(value, 0))
	set("other in the middle", other(value, len(value)/2))
	set("other at the end", other(strings.TrimRight(value, "="), len(strings.TrimRight(value, "="))-1)+value[len(strings.TrimRight(value, "=")):])
	set("in full-width digits", strings.Map(fullWidth, value)+"\uff10")
	set("with a zero-width space", value[:len(value)/2]+"\u200b"+value[len(value)/2:])
	set("percent-encoded", url.QueryEscape(value)+"%")
	set("quoted", `"`+value+`"`)
	set("zeros", strings.Repeat("0", len(value)))
	if b, err := base64.StdEncoding.DecodeString(value); err == nil && len(b) > 8 {
		set("as hex", hex.EncodeToString(b))
		set("as raw base64 of another alphabet", strings.NewReplacer("+", "-", "/", "_", "=", "").Replace(value)+"-")
	}
	if b, err := hex.DecodeString(value); err == nil && len(b) > 8 {
		set("as base64", base64.StdEncoding.EncodeToString(b))
	}
	if prefix, rest, ok := strings.Cut(value, "="); ok && rest != "" && strings.HasPrefix(prefix, "sha") {
		set("of another algorithm's name", "sha512="+rest)
		set("of no algorithm", rest)
	}
	if !several(s, name) {
		add(name+" twice", func(c *signature.Request) { c.Header.Add(name, value) })
		add(name+" twice, the other first", func(c *signature.Request) { c.Header[http.CanonicalHeaderKey(name)] = []string{other(value, 0), value} })
		add(name+" twice, the other last", func(c *signature.Request) { c.Header.Add(name, other(value, 0)) })
		set("with a space before", " "+value)
	}
	if f := rules(s).Format; !several(s, name) && (f == nil || f.Kind != "kv") {
		set("joined with another", value+", "+value)
	}
	if s.unsignedBody {
		for i := range min(len(value), 24) {
			at := i * len(value) / min(len(value), 24)
			set(fmt.Sprintf("other at %d", at), other(value, at))
			set(fmt.Sprintf("cut at %d", at), value[:at])
		}
	}
	if f := rules(s).Format; f != nil && strings.EqualFold(name, rules(s).Header) {
		switch f.Kind {
		case "kv":
			ts, sig, _ := strings.Cut(value, f.PairSep)
			set("without the signature", ts)
			set("without the timestamp", sig)
			set("with two timestamps", ts+f.PairSep+value)
			set("with a later timestamp", f.TS+"="+fmt.Sprint(now.Unix()+1)+f.PairSep+sig)
			set("of version 0 alone", ts+f.PairSep+"v0="+strings.TrimPrefix(sig, f.Sig+"="))
			set("split elsewhere", strings.ReplaceAll(value, f.PairSep, "|"))
			set("of forty signatures", value+strings.Repeat(f.PairSep+f.Sig+"=00", 40))
		case "list":
			set("of another version", "v9,"+strings.TrimPrefix(value, f.Version+","))
			set("split elsewhere", strings.ReplaceAll(value, ",", "|"))
			set("of forty signatures", value+strings.Repeat(" "+f.Version+",AAAA", 40))
		}
	}
}

func other(s string, at int) string {
	if s == "" {
		return "x"
	}
	c := byte('A')
	if s[at] == 'A' || s[at] == 'a' {
		c = 'B'
	}
	if s[at] >= '0' && s[at] <= '9' {
		c = '0' + (s[at]-'0'+1)%10
	}
	return s[:at] + string(c) + s[at+1:]
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}

func fullWidth(r rune) rune {
	if r >= '0' && r <= '9' {
		return r - '0' + '\uff10'
	}
	return r
}

func forgeTime(add func(string, func(*signature.Request)), s subject, ts *signature.TS) {
	if ts.Enforce == nil {
		add("an hour later", func(c *signature.Request) { c.At = c.At.Add(time.Hour) })
		add("a year later", func(c *signature.Request) { c.At = c.At.AddDate(1, 0, 0) })
		add("an hour before", func(c *signature.Request) { c.At = c.At.Add(-time.Hour) })
	}
	if ts.Header == "" {
		return
	}
	value := s.call.Header.Get(ts.Header)
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		n = now.Unix()
	}
	for _, v := range []string{"+" + value, "-" + value, "0" + value, value + ".0", value + "e0", "0x" + strconv.FormatInt(n, 16), "0", "-1",
		strconv.FormatInt(n+1, 10), strconv.FormatInt(n-1, 10), strconv.FormatInt(n*1000, 10), strconv.FormatInt(n/1000, 10),
		"9223372036854775807", "99999999999999999999", time.Unix(n, 0).UTC().Format(time.RFC1123), "now"} {
		add("timestamp "+v, func(c *signature.Request) { c.Header.Set(ts.Header, v) })
	}
}

func forgeBody(add func(string, func(*signature.Request)), s subject) {
	body := string(s.call.Body)
	set := func(what, b string) {
		if b != body {
			add("body "+what, func(c *signature.Request) { c.Body = []byte(b) })
		}
	}
	if s.name == "adyen-standard" {
		forgeAdyen(set, body)
		return
	}
	set("empty", "")
	if body == "" {
		set("where there was none", "{}")
		return
	}
	set("without its last byte", body[:len(body)-1])
	set("without its first byte", body[1:])
	set("half", body[:len(body)/2])
	set("doubled", body+body)
	set("with a space more", body+" ")
	set("with a line end more", body+"\n")
	set("with NUL", body+"\x00")
	set("with a byte order mark", "\ufeff"+body)
	set("other at the start", other(body, 0))
	set("other in the middle", other(body, len(body)/2))
	set("other at the end", other(body, len(body)-1))
	set("in capitals", strings.ToUpper(body))
	set("something else", `{"amount":1000000}`)
	for i := 1; i <= 24; i++ {
		at := len(body) * i / 25
		flipped := []byte(body)
		flipped[at] ^= 1
		set(fmt.Sprintf("with a bit flipped at byte %d", at), string(flipped))
	}
	if strings.Contains(body, "&") && !strings.HasPrefix(body, "{") && !strings.HasPrefix(body, "[") { // a form
		set("with a field more", body+"&Amount=1000")
		set("with a field more in front", "Amount=1000&"+body)
		first, rest, _ := strings.Cut(body, "&")
		set("with its first field gone", rest)
		set("with its first field twice, the other last", body+"&"+first+"x")
	}
}

func forgeAdyen(set func(string, string), body string) {
	for _, field := range []string{"pspReference", "originalReference", "merchantAccountCode", "merchantReference", "currency", "eventCode", "success", "hmacSignature"} {
		at := strings.Index(body, `"`+field+`":"`) + len(field) + 4
		set(field+" other", body[:at]+"Z"+body[at:])
		set(field+" in other case", strings.Replace(body, `"`+field+`"`, `"`+strings.ToUpper(field)+`"`, 1))
		set(field+" twice", strings.Replace(body, `"`+field+`":"`, `"`+field+`":"X","`+field+`":"`, 1))
		set(field+" with a colon", body[:at]+":"+body[at:])
		set(field+" a number", strings.Replace(body, `"`+field+`":"`, `"`+field+`":1,"x":"`, 1))
	}
	set("fields shifted by a colon", strings.NewReplacer(`"RelayShopECOM"`, `"RelayShopECOM:Order"`, `"Order:77`, `"77`).Replace(body))
	set("value a text", strings.Replace(body, `"value":2550`, `"value":"2550"`, 1))
	set("value a fraction", strings.Replace(body, `"value":2550`, `"value":2550.0`, 1))
	set("value negative", strings.Replace(body, `"value":2550`, `"value":-2550`, 1))
	set("without items", `{"live":"false","notificationItems":[]}`)
	set("with an unsigned item more", strings.Replace(body, `}}]}`, `}},{"NotificationRequestItem":{"eventCode":"AUTHORISATION"}}]}`, 1))
	set("with a null item more", strings.Replace(body, `}}]}`, `}},null]}`, 1))
	set("twice the items", strings.Replace(body, `{"live"`, `{"notificationItems":[],"live"`, 1))
	set("and another value", body+"{}")
	set("empty", "")
}

// forgeRest changes method, address, query, peer and certificate, where the scheme looks at them.
func forgeRest(t testing.TB, add func(string, func(*signature.Request)), s subject) {
	r := rules(s)
	target := s.call.URL
	if strings.Contains(r.Signed, "{method}") {
		for _, m := range []string{"GET", "PUT", "post", ""} {
			add("method "+m, func(c *signature.Request) { c.Method = m })
		}
	}
	if strings.Contains(r.Signed, "{url}") || r.URLHashClaim != "" {
		add("query more", func(c *signature.Request) {
			c.URL += map[bool]string{true: "&", false: "?"}[strings.Contains(target, "?")] + "admin=1"
		})
		if strings.Contains(target, "?") {
			path, query, _ := strings.Cut(target, "?")
			add("query gone", func(c *signature.Request) { c.URL = path })
			add("query other", func(c *signature.Request) { c.URL = path + "?" + other(query, len(query)-1) })
		}
	}
	if r.Query != "" {
		for _, q := range []string{"", "?code=", "?code=0", "?Code=00000000-0000-0000-0000-000000000001", "?code=00000000-0000-0000-0000-000000000001&code=x",
			"?code=x&code=00000000-0000-0000-0000-000000000001", "?code=00000000-0000-0000-0000-000000000001&code=00000000-0000-0000-0000-000000000001", "?code=%zz"} {
			add("query "+q, func(c *signature.Request) { c.URL = "/in/test" + q })
		}
		for i := range 36 {
			add(fmt.Sprintf("code other at %d", i), func(c *signature.Request) {
				c.URL = "/in/test?code=" + other("00000000-0000-0000-0000-000000000001", i)
			})
		}
	}
	switch s.name {
	case "paypal":
		for _, u := range []string{"http://api.paypal.com/c", "https://paypal.com.evil.example/c", "https://evilpaypal.com/c", "https://x@api.paypal.com/c", "https://api.paypal.com@evil.example/c",
			"https://evil.example/.paypal.com", "https://evil.example#.paypal.com", "https://evil.example?.paypal.com", "https://evil.example\\.paypal.com",
			"https://api.paypal.com:8443/c", "//api.paypal.com/c", "ftp://api.paypal.com/c", "https://api.paypal.com.", "https://evil.example%2f.paypal.com/"} {
			add("certificate at "+u, func(c *signature.Request) { c.Header.Set("PAYPAL-CERT-URL", u) })
		}
		add("after the certificate's end", func(c *signature.Request) { c.At = now.AddDate(0, 2, 0) })
		add("before the certificate's start", func(c *signature.Request) { c.At = now.AddDate(0, -2, 0) })
	case "mtls":
		forgeMTLS(t, add)
	case "ip-allow", "yookassa":
		for i := range 44 {
			add(fmt.Sprintf("from elsewhere %d", i), func(c *signature.Request) { c.Remote = netip.AddrFrom4([4]byte{203, 0, 113, byte(16 + 5*i)}) })
		}
		for _, a := range []string{"::1", "2001:db9::1", "::ffff:198.51.100.1", "127.0.0.1"} {
			add("from "+a, func(c *signature.Request) { c.Remote = netip.MustParseAddr(a) })
		}
		add("from nowhere", func(c *signature.Request) { c.Remote = netip.Addr{} })
	case "zoho":
		for i := range 23 {
			add(fmt.Sprintf("token other at %d", i), func(c *signature.Request) {
				c.Body = []byte(`{"token":"` + other("0123456789abcdef-secret", i) + `"}`)
			})
			add(fmt.Sprintf("token cut at %d", i), func(c *signature.Request) { c.Body = []byte(`{"token":"` + "0123456789abcdef-secret"[:i] + `"}`) })
		}
		for _, b := range []string{`{}`, ``, `[]`, `{"token":null}`, `{"token":1}`, `{"token":"x","token":"0123456789abcdef-secret"}`, `{"Token":"0123456789abcdef-secret"}`,
			`{"token":["0123456789abcdef-secret"]}`, `{"token":"x","TOKEN":"0123456789abcdef-secret"}`} {
			add("body "+b, func(c *signature.Request) { c.Body = []byte(b) })
		}
	case "braintree-challenge":
		add("a POST", func(c *signature.Request) { c.Method = "POST" })
		add("a body", func(c *signature.Request) { c.Body = []byte("bt_payload=x") })
		for i := range 40 {
			if i < 20 || i > 32 {
				add(fmt.Sprintf("challenge of %d digits", i), func(c *signature.Request) { c.URL = "/in/test?bt_challenge=" + strings.Repeat("a", i) })
			}
		}
		for _, r := range "ghijklmnopqrstuvwxyzABCDEF|&%<>" {
			add("challenge with "+string(r), func(c *signature.Request) {
				c.URL = "/in/test?bt_challenge=" + strings.Repeat("a", 24) + url.QueryEscape(string(r))
			})
		}
	}
}

func forgeMTLS(t testing.TB, add func(string, func(*signature.Request))) {
	add("no TLS", func(c *signature.Request) { c.TLS = nil })
	add("no certificate", func(c *signature.Request) {
		tls := *c.TLS
		tls.PeerCertificates = nil
		c.TLS = &tls
	})
	present := func(name string, change func(*x509.Certificate)) {
		cert := leaf(t, change)
		add(name, func(c *signature.Request) {
			tls := *c.TLS
			tls.PeerCertificates = []*x509.Certificate{cert}
			c.TLS = &tls
		})
	}
	present("for servers only", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	long := leaf(t, func(c *x509.Certificate) { c.NotAfter = now.AddDate(20, 0, 0) })
	add("after the authority's end", func(c *signature.Request) {
		tls := *c.TLS
		tls.PeerCertificates = []*x509.Certificate{long}
		c.TLS, c.At = &tls, now.AddDate(10, 0, 0)
	})
	present("expired", func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) })
	present("not valid yet", func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) })
	present("name as subject only", func(c *x509.Certificate) { c.DNSNames, c.Subject.CommonName = nil, "erp-1.example" })
	present("name as address", func(c *x509.Certificate) { c.DNSNames, c.EmailAddresses = nil, []string{"root@erp-1.example"} })
	present("name as URI", func(c *x509.Certificate) {
		c.DNSNames, c.URIs = nil, []*url.URL{{Scheme: "spiffe", Host: "erp-1.example"}}
	})
	for i := range 32 {
		present(fmt.Sprintf("for another host %d", i), func(c *x509.Certificate) { c.DNSNames = []string{fmt.Sprintf("erp-1%d.example", i)} })
	}
	for _, n := range []string{"*.example", "erp-1.example.evil.test", "xerp-1.example", "erp-1.example0"} {
		present("for "+n, func(c *x509.Certificate) { c.DNSNames = []string{n} })
	}
}

// forgeKeys signs the call with keys and algorithms that are not the right ones.
func forgeKeys(t testing.TB, add func(string, func(*signature.Request)), scheme signature.Scheme, s subject) {
	r := rules(s)
	if scheme.Rules.Scheme != "hmac" || r.Field != "" || strings.Contains(r.Signed, "form_") || r.BodyHashQuery != "" {
		return
	}
	at := s.call.At
	if r.TS != nil && r.TS.Header != "" {
		if n, err := strconv.ParseInt(s.call.Header.Get(r.TS.Header), 10, 64); err == nil && r.TS.Unit == "s" {
			at = time.Unix(n, 0)
		}
	}
	zero := map[string]string{"base64": "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 32)), "hex": strings.Repeat("00", 32)}[r.Key]
	wrong := map[string]string{"base64": "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32)), "hex": strings.Repeat("ab", 32)}[r.Key]
	if zero == "" {
		zero, wrong = strings.Repeat("\x00", 16), "another secret altogether"
	}
	for name, key := range map[string]string{"the empty key": zero, "another key": wrong} {
		for _, hash := range []string{"sha256", "sha512"} {
			sign := signature.Signing{Scheme: "hmac", Secret: config.NewSecret(key), Header: r.Header, Format: r.Format, Hash: hash, Encoding: r.Encoding,
				Key: r.Key, KeyStrip: r.KeyStrip, Signed: r.Signed, TS: r.TS}
			signHeader(t, add, fmt.Sprintf("signed with %s and %s", name, hash), sign, s, at)
		}
	}
	sign := signature.Signing{Scheme: "hmac", Secret: s.settings.Secret, Header: r.Header, Format: r.Format, Hash: "sha512", Encoding: r.Encoding,
		Key: r.Key, KeyStrip: r.KeyStrip, Signed: r.Signed, TS: r.TS}
	signHeader(t, add, "signed with the right key and sha512", sign, s, at)
	sign.Hash, sign.Signed = r.Hash, r.Signed+"x"
	signHeader(t, add, "signed over another text", sign, s, at)
	sign.Signed = "{body}{body}"
	signHeader(t, add, "signed over the body twice", sign, s, at)
}

func signHeader(t testing.TB, add func(string, func(*signature.Request)), name string, sign signature.Signing, s subject, at time.Time) {
	id := s.call.Header.Get("webhook-id")
	if id == "" {
		id = "msg_1"
	}
	if sign.TS != nil && !strings.Contains(sign.Signed, "{ts}") {
		sign.TS = nil
		if sign.Format != nil && sign.Format.Kind == "kv" {
			return
		}
	}
	h, err := signature.Sign(sign, signature.SignRequest{ID: id, At: at, Method: s.call.Method, URL: s.settings.PublicURL, Body: s.call.Body})
	if err != nil {
		t.Errorf("%s: %s: %v", s.name, name, err)
		return
	}
	add(name, func(c *signature.Request) { maps.Copy(c.Header, h) })
}
