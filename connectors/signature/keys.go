package signature

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // what Twilio, Mandrill, Intercom and Braintree sign with; safe inside HMAC
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"math/big"
	"strings"
	"sync"
	"time"
)

// key is one secret, public key or certificate, ready for use.
type key struct {
	text   string // the secret as set; "" for public keys
	bytes  []byte // the key made of it
	hash   crypto.Hash
	macs   *sync.Pool       // of *mac
	public crypto.PublicKey // nil for secrets
	id     string           // what KeyID's header has to say; "" when any
	// from and until bound when it is accepted; the zero time is no bound.
	from, until time.Time
}

// valid reports whether the key is accepted at this time.
func (k *key) valid(at time.Time) bool {
	return (k.from.IsZero() || !at.Before(k.from)) && (k.until.IsZero() || !at.After(k.until))
}

// named reports whether the call's key header, if the scheme has one, means this key.
func (k *key) named(v *Verifier, c *Request) bool {
	if v.set.KeyID == nil {
		return true
	}
	got, err := single(c, v.set.KeyID.Header)
	return err == nil && same(strings.ToUpper(got), strings.ToUpper(k.id))
}

// mac is a keyed hash with room for its input and output. It is reused: a fresh HMAC hashes its key twice.
type mac struct {
	h      hash.Hash
	secret string // for {secret} in a plain hash
	write  func([]byte)
	in     []byte
	out    []byte
	got    []byte
}

// newMACs returns a pool of macs under one key. Plain is the hash without HMAC, with the secret in the text.
func newMACs(h crypto.Hash, keyBytes []byte, secret string, plain bool) *sync.Pool {
	return &sync.Pool{New: func() any {
		m := &mac{secret: secret}
		if plain {
			m.h = h.New()
		} else {
			m.h = hmac.New(h.New, keyBytes)
		}
		m.write = func(b []byte) { _, _ = m.h.Write(b) }
		return m
	}}
}

// sum is the signature of a text. It stays valid until the next call.
func (m *mac) sum(t template, e *env) []byte {
	m.h.Reset()
	m.in = t.feed(m.write, m.in, m.secret, e)
	m.out = m.h.Sum(m.out[:0])
	return m.out
}

// same compares two texts without telling by its time where they differ, or how long they are.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// secretBytes makes the key of a secret. The error never holds any of it.
func secretBytes(text, rule, strip string) ([]byte, error) {
	text = strings.TrimPrefix(text, strip)
	switch rule {
	case "hex":
		b, err := hex.DecodeString(text)
		if err != nil {
			return nil, errors.New("it is not hexadecimal")
		}
		return b, nil
	case "base64":
		b, err := decodeBase64(text)
		if err != nil {
			return nil, errors.New("it is not base64")
		}
		return b, nil
	case "sha1(utf8)":
		sum := sha1.Sum([]byte(text)) //nolint:gosec // Braintree's rule
		return sum[:], nil
	}
	return []byte(text), nil
}

// decodeBase64 reads a key as people paste it: with or without padding.
func decodeBase64(text string) ([]byte, error) {
	return base64.RawStdEncoding.Strict().DecodeString(strings.TrimRight(text, "="))
}

// parsePublicKey reads PEM or base64, with anything that white space did to it on the way.
func parsePublicKey(text, strip string) (crypto.PublicKey, error) {
	if strings.Contains(text, "-----BEGIN") {
		block := firstBlock(text)
		if block == nil {
			return nil, errors.New("it begins like PEM and is not")
		}
		if block.Type == "CERTIFICATE" {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, errors.New("its certificate cannot be read")
			}
			return cert.PublicKey, nil
		}
		return parseSPKI(block.Bytes)
	}
	bare := strings.Join(strings.Fields(text), "")
	der, err := decodeBase64(strings.TrimPrefix(bare, strip))
	switch {
	case err != nil || len(der) == 0:
		return nil, errors.New("it is neither PEM nor base64")
	case len(der) == ed25519.PublicKeySize:
		return ed25519.PublicKey(der), nil
	}
	return parseSPKI(der)
}

func parseSPKI(der []byte) (crypto.PublicKey, error) {
	if public, err := x509.ParsePKIXPublicKey(der); err == nil {
		return public, nil
	}
	if public, err := x509.ParsePKCS1PublicKey(der); err == nil {
		return public, nil
	}
	return nil, errors.New("it is not a public key (SPKI)")
}

// firstBlock is the first PEM block of the text.
func firstBlock(text string) *pem.Block {
	block, _ := pem.Decode(unglue(text))
	return block
}

// unglue separates certificates that were joined without a line end between them.
func unglue(text string) []byte {
	return bytes.ReplaceAll([]byte(text), []byte("----------"), []byte("-----\n-----"))
}

// parseCertificates reads every certificate of a PEM text.
func parseCertificates(text string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := unglue(text); ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %s, not a certificate", strings.ToLower(block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("one of its certificates cannot be read")
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, errors.New("it holds no PEM certificate")
	}
	return out, nil
}

// checkPublicKey says what keeps a public key from being used for a kind of scheme.
func checkPublicKey(public crypto.PublicKey, kind string) error {
	switch p := public.(type) {
	case *rsa.PublicKey:
		if kind != "rsa" {
			return fmt.Errorf("it is an RSA key, and %s wants another", kind)
		}
		if p.N.BitLen() < 2048 {
			return fmt.Errorf("it has %d bits; less than 2048 can be forged", p.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if kind != "ecdsa" {
			return fmt.Errorf("it is an ECDSA key, and %s wants another", kind)
		}
		if p.Curve.Params().BitSize < 256 {
			return errors.New("its curve is smaller than P-256")
		}
	case ed25519.PublicKey:
		if kind != "ed25519" {
			return fmt.Errorf("it is an Ed25519 key, and %s wants another", kind)
		}
		if !saneEd25519(p) {
			return errors.New("it is one of the few Ed25519 keys under which anybody can sign")
		}
	default:
		return errors.New("it is of a kind that is not known here")
	}
	return nil
}

// saneEd25519 refuses the keys of small order, all-zero among them, which would accept signatures made without a private key.
func saneEd25519(p ed25519.PublicKey) bool {
	small := []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	}
	masked := bytes.Clone(p)
	masked[31] &= 0x7f
	for _, s := range small {
		if same(hex.EncodeToString(masked), s) {
			return false
		}
	}
	return true
}

// certificateKeys makes a key of each signing certificate. Whether it chains to the authorities does not change with time and is
// settled here; the time in which it and all above it are valid is kept for Verify.
func certificateKeys(certificate, chain string, rule *Cert) ([]key, error) {
	leaves, err := parseCertificates(certificate)
	if err != nil {
		return nil, err
	}
	var keys []key
	for _, leaf := range leaves {
		if rule != nil && !strings.HasSuffix(leaf.Subject.CommonName, rule.SubjectCNSuffix) {
			return nil, fmt.Errorf("its subject's common name does not end in %s", rule.SubjectCNSuffix)
		}
		k := key{public: leaf.PublicKey, id: serialHex(leaf.SerialNumber), from: leaf.NotBefore, until: leaf.NotAfter}
		if chain != "" {
			if k.from, k.until, err = chained(leaf, chain); err != nil {
				return nil, err
			}
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func serialHex(n *big.Int) string { return strings.ToUpper(n.Text(16)) }

// chained checks that leaf was issued by the chain, whose last certificate is trusted, and returns when all of it is valid.
func chained(leaf *x509.Certificate, chain string) (from, until time.Time, err error) {
	above, err := parseCertificates(chain)
	if err != nil {
		return from, until, fmt.Errorf("chain: %w", err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for i, c := range above {
		if i == len(above)-1 {
			roots.AddCert(c)
		} else {
			between.AddCert(c)
		}
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return from, until, errors.New("it was not issued by the certificates in chain")
	}
	from, until = leaf.NotBefore, leaf.NotAfter
	for _, c := range chains[0] {
		from = latest(from, c.NotBefore)
		until = earliest(until, c.NotAfter)
	}
	return from, until, nil
}

func latest(a, b time.Time) time.Time {
	if cmp.Compare(a.UnixNano(), b.UnixNano()) < 0 {
		return b
	}
	return a
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
