package app_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/app"
)

// issue writes a self-signed certificate for 127.0.0.1 and its key, and returns the certificate.
func issue(t *testing.T, certificate, key, name string, changed time.Time) *x509.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	form := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: from.AddDate(100, 0, 0),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{certificate: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, changed, changed); err != nil {
			t.Fatal(err)
		}
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestThePublicDoorSpeaksTLS(t *testing.T) {
	t.Parallel()
	dir, office := t.TempDir(), receiving(t, nil)
	certificate, key := filepath.Join(dir, "hub.pem"), filepath.Join(dir, "hub.key")
	made := issue(t, certificate, key, "hub", time.Unix(1_700_000_000, 0))
	text := strings.Replace(simple(filepath.Join(dir, "data"), office.URL, ""), "server: {",
		"server: {tls: {certificate: "+certificate+", key: "+key+`, min_version: "1.3"}, `, 1)
	h := serve(t, text)
	trusted := x509.NewCertPool()
	trusted.AddCert(made)
	talk := func(most uint16) *http.Client {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, MaxVersion: most}}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	url := "https://" + h.listen + "/in/stripe"
	if code := postTo(t, talk(0), url, stripeEvent("evt_1", "cus_1"), stripeSecret); code != http.StatusOK {
		t.Errorf("over TLS: %d", code)
	}
	if got := office.next(t).header.Get("Ce-Id"); got != "evt_1" {
		t.Errorf("%s was delivered", got)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := talk(tls.VersionTLS12).Do(req); err == nil {
		res.Body.Close()
		t.Error("TLS 1.2 was spoken where 1.3 is the least")
	}
	// Without TLS the call is answered 400 or cut off.
	plain, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+h.listen+"/in/stripe", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := h.client.Do(plain); err == nil {
		res.Body.Close()
		if res.StatusCode != http.StatusBadRequest {
			t.Errorf("without TLS: %d", res.StatusCode)
		}
	}
	if code, _ := h.ask(t, "/healthz"); code != http.StatusOK {
		t.Errorf("the admin side: %d", code)
	}
}

func TestACertificateThatIsNoneStopsTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "hub.pem")
	if err := os.WriteFile(path, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := new(lines)
	text := strings.Replace(simple(filepath.Join(dir, "data"), "http://127.0.0.1:1/", ""), "server: {", "server: {tls: {certificate: "+path+", key: "+path+"}, ", 1)
	err := app.Serve(t.Context(), planOf(t, text, log), app.Options{Logger: log.logger(config.Log{})})
	if !errors.Is(err, app.ErrEnvironment) || !strings.Contains(err.Error(), "server.tls") {
		t.Errorf("got %v", err)
	}
}

// TestARenewedCertificateIsUsed follows a certificate through its renewals, the bad ones among them.
func TestARenewedCertificateIsUsed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		certificate, key := filepath.Join(dir, "hub.pem"), filepath.Join(dir, "hub.key")
		day := time.Unix(1_700_000_000, 0)
		first := issue(t, certificate, key, "first", day)
		var warnings []error
		current := app.KeyPair(certificate, key, func(err error) { warnings = append(warnings, err) })
		shows := func(when string, want *x509.Certificate, warned int) {
			t.Helper()
			got, err := current()
			if err != nil || got == nil || !got.Leaf.Equal(want) {
				t.Errorf("%s: got another certificate, or none (%v)", when, err)
			}
			if len(warnings) != warned {
				t.Errorf("%s: %d warnings: %v", when, len(warnings), warnings)
			}
		}
		shows("at first", first, 0)
		second := issue(t, certificate, key, "second", day.Add(time.Hour))
		shows("renewed just now", first, 0)
		<-time.After(app.Recheck)
		shows("a little later", second, 0)
		if err := os.WriteFile(certificate, []byte("half written"), 0o600); err != nil {
			t.Fatal(err)
		}
		<-time.After(app.Recheck)
		shows("half written", second, 1)
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
		<-time.After(app.Recheck)
		shows("gone", second, 2)
		third := issue(t, certificate, key, "third", day.Add(2*time.Hour))
		<-time.After(app.Recheck)
		shows("mended", third, 2)
	})
}
