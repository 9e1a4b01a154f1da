package rest_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/connectors/rest"
)

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// issue makes a certificate for a host, valid until an hour from now or the time given.
func (a *authority) issue(t testing.TB, host string, until time.Duration) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(until)}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
}

func secure(t testing.TB, cert, key string, change func(*tls.Config)) string {
	t.Helper()
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%x %d %s", r.TLS.Version, len(r.TLS.PeerCertificates), r.Proto)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	if change != nil {
		change(s.TLS)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	good, goodKey := ours.issue(t, "127.0.0.1", time.Hour)
	old, oldKey := ours.issue(t, "127.0.0.1", -time.Hour)
	wrong, wrongKey := ours.issue(t, "elsewhere.test", time.Hour)
	strange, strangeKey := theirs.issue(t, "127.0.0.1", time.Hour)
	clients := x509.NewCertPool()
	clients.AddCert(ours.cert)
	mutual := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, clients }
	me, myKey := ours.issue(t, "the-hub", time.Hour)
	trust := &rest.TLS{CA: ours.pem}
	for name, tt := range map[string]struct {
		url  string
		tls  *rest.TLS
		want string // empty: refused
	}{
		"trusted":                      {secure(t, good, goodKey, nil), trust, "304 0 HTTP/1.1"},
		"1.2 is enough":                {secure(t, good, goodKey, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), trust, "303 0 HTTP/1.1"},
		"1.1 is not":                   {secure(t, good, goodKey, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }), trust, ""},
		"unknown authority":            {secure(t, strange, strangeKey, nil), trust, ""},
		"nobody's authority":           {secure(t, good, goodKey, nil), nil, ""},
		"expired":                      {secure(t, old, oldKey, nil), trust, ""},
		"another name":                 {secure(t, wrong, wrongKey, nil), trust, ""},
		"another name that is meant":   {secure(t, wrong, wrongKey, nil), &rest.TLS{CA: ours.pem, ServerName: "elsewhere.test"}, "304 0 HTTP/1.1"},
		"client certificate":           {secure(t, good, goodKey, mutual), &rest.TLS{CA: ours.pem, Certificate: me, Key: config.NewSecret(myKey)}, "304 1 HTTP/1.1"},
		"client certificate is needed": {secure(t, good, goodKey, mutual), trust, ""},
	} {
		c := client(t, rest.Settings{AllowPrivate: true, TLS: tt.tls}, rest.Options{})
		for range 2 { // the second on the connection or the session that was kept
			res, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", tt.url)})
			if tt.want == "" {
				if err == nil || connectors.AsFailure(err).Final {
					t.Errorf("%s: got %v, %v; want an error to try again", name, res, err)
				}
			} else if err != nil || string(res.Body) != tt.want {
				t.Errorf("%s: got %v, %v", name, res, err)
			}
		}
		if tt.want != "" {
			if err := c.Reach(t.Context(), to(t, "POST", tt.url)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	if found := problems(rest.Settings{TLS: &rest.TLS{CA: ours.pem, Certificate: me, Key: config.NewSecret(goodKey)}}); len(found) != 1 || !strings.HasPrefix(found[0], "tls.certificate") {
		t.Errorf("a key that belongs to another certificate: %q", found)
	}
}

func TestProxy(t *testing.T) {
	t.Parallel()
	var asked atomic.Value
	proxy := script(t, func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body, _ := io.ReadAll(req.Body)
			asked.Store(fmt.Sprintf("%s %s %s %s %s", req.Method, req.RequestURI, req.Header.Get("Proxy-Authorization"), req.Header.Get("X-A"), body))
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	c := client(t, rest.Settings{Proxy: config.NewSecret(strings.Replace(proxy, "://", "://user:planted-password@", 1))}, rest.Options{})
	res, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "PUT", "http://named.test:81/a%2Fb?c=d"), Fields: []rest.Field{{Name: "X-A", Value: "b"}}, Body: []byte("body")})
	if want := "PUT http://named.test:81/a%2Fb?c=d Basic dXNlcjpwbGFudGVkLXBhc3N3b3Jk b body"; err != nil || string(res.Body) != "ok" || asked.Load() != want {
		t.Errorf("got %v, %v; the proxy was asked %s, want %s", res, err, asked.Load(), want)
	}
	asked.Store("nothing")
	for _, target := range []string{"http://127.0.0.1:1/", "http://localhost:1/", "http://LOCALHOST.:1/", "http://[::ffff:10.0.0.1]/", "https://169.254.169.254/"} {
		if _, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", target)}); err == nil || !strings.Contains(err.Error(), "allow") {
			t.Errorf("%s: got %v", target, err)
		}
		if err := c.Reach(t.Context(), to(t, "POST", target)); err == nil {
			t.Errorf("%s: Reach finds nothing wrong", target)
		}
	}
	if asked.Load() != "nothing" {
		t.Errorf("the proxy was asked %s", asked.Load())
	}
	if err := c.Reach(t.Context(), to(t, "POST", "http://named.test/")); err != nil {
		t.Error(err)
	}
	c.Close()
	metadata := client(t, rest.Settings{Proxy: config.NewSecret("http://169.254.169.254:80")}, rest.Options{})
	if _, err := metadata.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", "http://named.test/")}); err == nil || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("a proxy at the metadata address: %v", err)
	}
}

// The environment's proxy would carry requests past the guard.
func TestProxyOfTheEnvironmentIsNotUsed(t *testing.T) {
	inside := listen(t, "127.0.0.1:0")
	t.Setenv("HTTP_PROXY", "http://"+inside.Addr().String())
	t.Setenv("http_proxy", "http://"+inside.Addr().String())
	t.Setenv("ALL_PROXY", "http://"+inside.Addr().String())
	c := client(t, rest.Settings{}, rest.WithResolver(rest.Options{}, insideNames()))
	if _, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", "http://nowhere.test/")}); err == nil {
		t.Error("a name that does not exist was reached")
	}
	if inside.seen.Load() != 0 {
		t.Error("the environment's proxy was used")
	}
}
