package torture

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
	"github.com/tidewire/tidewire/internal/services"
)

// TestTortureClusterTLS has hubs speak TLS to Kafka and PostgreSQL: with the right authority they work, and a server that cannot prove who it is gets nothing.
func TestTortureClusterTLS(t *testing.T) {
	must(t, clusterTLS(t, hub))
}

func clusterTLS(t *testing.T, bin string) []string {
	t.Helper()
	kafka, postgres := services.NewKafka(t, services.KafkaOptions{TLS: true}), services.NewPostgres(t, services.PostgresOptions{TLS: true})
	r := newRack(t, plan{
		bin: bin, kafka: kafka, postgres: postgres, brokers: kafka.SecureAddresses(), secure: fmt.Sprintf(", tls: {ca: %q}", kafka.TLS().CA),
	})
	r.allUp()
	g := r.hubs[0].generator("tls")
	g.Events = 200
	sent := r.hubs[0].post(g)
	const name = "cluster: TLS"
	r.settled(name, 1, func() []*load.Sent { return []*load.Sent{sent} }, 0)

	authority := newAuthority(t)
	refused := 0
	for fake, certificate := range authority.fakes(t) {
		for _, server := range []string{"Kafka", "PostgreSQL"} {
			door := newImpostor(t, server, certificate)
			code, said := r.joins(server, door.address(), authority.file)
			if code != 3 || !oneSentence(said, server, door.address()) {
				r.fault("%s with a certificate that is %s: exit code %d, it said %s", server, fake, code, said)
			}
			if n := door.trusted.Load(); n > 0 {
				r.fault("%s with a certificate that is %s: %d connections were made", server, fake, n)
			}
			if n := door.called.Load(); n == 0 {
				r.fault("%s with a certificate that is %s was never called: nothing is proved", server, fake)
			}
			refused++
			t.Logf("%s, %s: %s", server, fake, said)
		}
	}
	tell(t, name, refused, "servers that cannot prove who they are, refused", refused)
	return r.violations()
}

// joins starts a hub on a server that lies, beside a good one, and returns how it ended and the error it gave.
func (r *rack) joins(server, address, ca string) (code int, said string) {
	r.t.Helper()
	b := r.hubs[0]
	text, err := os.ReadFile(b.config)
	if err != nil {
		r.t.Fatal(err)
	}
	config := string(text)
	switch server {
	case "Kafka":
		config = strings.ReplaceAll(config, strings.Join(r.brokers, ", "), address)
		config = strings.ReplaceAll(config, r.kafka.TLS().CA, ca)
	case "PostgreSQL":
		config = strings.ReplaceAll(config, r.database, "postgres://tidewire@"+address+"/postgres?sslmode=verify-full&sslrootcert="+ca)
	}
	path := filepath.Join(r.t.TempDir(), "tidewire.yaml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		r.t.Fatal(err)
	}
	code, output, _ := b.exit(time.Minute, b.bin, "serve", "--config", path)
	for line := range strings.Lines(output) {
		if !strings.Contains(line, "level=WARN") && !strings.Contains(line, "level=INFO") {
			said += line
		}
	}
	return code, said
}

// oneSentence reports whether an error is one line that names the server and where it is, and says that it is the certificate.
func oneSentence(said, server, address string) bool {
	said = strings.TrimSpace(said)
	return !strings.Contains(said, "\n") && strings.Contains(said, server) && strings.Contains(said, address) &&
		(strings.Contains(said, "certificate") || strings.Contains(said, "tls") || strings.Contains(said, "TLS"))
}

// authority is one whose certificates the hubs are told to trust.
type authority struct {
	file        string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{file: filepath.Join(t.TempDir(), "ca.pem")}
	form := certificateFor("an authority")
	form.IsCA, form.KeyUsage = true, x509.KeyUsageCertSign
	made := a.sign(t, form, true)
	a.key = made.PrivateKey.(*ecdsa.PrivateKey)
	var err error
	if a.certificate, err = x509.ParseCertificate(made.Certificate[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: made.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// certificateFor is the form of a certificate that is good now, here.
func certificateFor(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
}

// sign makes a key and a certificate, by the authority or by itself.
func (a *authority) sign(t *testing.T, form *x509.Certificate, itself bool) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := a.certificate, a.key
	if itself {
		parent, signer = form, key
	}
	der, err := x509.CreateCertificate(rand.Reader, form, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// fakes are what servers show that are not who they should be, by what is wrong.
func (a *authority) fakes(t *testing.T) map[string]*tls.Config {
	t.Helper()
	expired, elsewhere := certificateFor("localhost"), certificateFor("elsewhere.example")
	expired.NotBefore, expired.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
	elsewhere.DNSNames, elsewhere.IPAddresses = []string{"elsewhere.example"}, nil
	all := map[string]tls.Certificate{
		"self-signed": a.sign(t, certificateFor("localhost"), true), "expired": a.sign(t, expired, false), "for another name": a.sign(t, elsewhere, false),
	}
	configs := make(map[string]*tls.Config)
	for name, c := range all {
		configs[name] = &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS12}
	}
	good := a.sign(t, certificateFor("localhost"), false)
	configs["good, by TLS 1.1"] = &tls.Config{Certificates: []tls.Certificate{good}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	return configs
}

// impostor listens as a server does that speaks TLS, and counts who believed it.
type impostor struct {
	listener        net.Listener
	called, trusted atomic.Int64
}

func (i *impostor) address() string { return i.listener.Addr().String() }

func newImpostor(t *testing.T, server string, c *tls.Config) *impostor {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &impostor{listener: l}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				i.called.Add(1)
				if server == "PostgreSQL" { // whose clients ask for TLS in eight bytes and wait for an S
					if _, err := io.ReadFull(conn, make([]byte, 8)); err != nil {
						return
					}
					_, _ = conn.Write([]byte("S"))
				}
				secure := tls.Server(conn, c)
				// In TLS 1.3 a server has shaken hands before the client has judged it: what counts is whether anything is said.
				if _, err := secure.Read(make([]byte, 1)); err == nil {
					i.trusted.Add(1)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		work.Wait()
	})
	return i
}
