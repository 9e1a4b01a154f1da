package services

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Files are the paths of what a TLS client needs, all in PEM: the authority that the server's certificate comes from, and a certificate of the client's own with its key.
type Files struct{ CA, Certificate, Key string }

// issued are the files of an authority that was made for one server.
type issued struct {
	Files
	serverCertificate, serverKey string
	serverBoth                   string // key and certificate in one file, as Kafka wants them
}

// issue makes an authority, and certificates from it for a server on loopback and for a client called "hub". They are valid for a day.
func issue(dir string) (issued, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	f := issued{
		Files:             Files{CA: at("ca.pem"), Certificate: at("client.pem"), Key: at("client-key.pem")},
		serverCertificate: at("server.pem"), serverKey: at("server-key.pem"), serverBoth: at("server-both.pem"),
	}
	ca := certificate("Tidewire's tests")
	ca.IsCA, ca.KeyUsage = true, x509.KeyUsageCertSign
	caKey, err := write(f.CA, "", ca, ca, nil)
	if err != nil {
		return f, err
	}
	server := certificate("localhost")
	server.DNSNames, server.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if _, err := write(f.serverCertificate, f.serverKey, server, ca, caKey); err != nil {
		return f, err
	}
	if _, err := write(f.Certificate, f.Key, certificate("hub"), ca, caKey); err != nil {
		return f, err
	}
	key, err := os.ReadFile(f.serverKey)
	if err != nil {
		return f, err
	}
	leaf, err := os.ReadFile(f.serverCertificate)
	if err != nil {
		return f, err
	}
	return f, os.WriteFile(f.serverBoth, append(key, leaf...), 0o600) //nolint:gosec // the folder is the test's
}

func certificate(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // never fails
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// write makes a key and a certificate for it, signed by its parent's key or, without one, by itself. Without a path the key is not written.
func write(path, keyPath string, c, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if parentKey == nil {
		parentKey = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", c.Subject.CommonName, err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		return nil, fmt.Errorf("make the certificate of %s: %w", c.Subject.CommonName, err)
	}
	if keyPath == "" {
		return key, nil
	}
	der, err = x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	if err := os.WriteFile(keyPath, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return key, nil
}
