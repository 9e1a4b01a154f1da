package app

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/tidewire/tidewire/config"
)

// recheck is how often the certificate's files are looked at for a renewal.
const recheck = 10 * time.Second

// publicTLS is the public door's TLS, or nil. The certificate is read again when its files change, so that a renewal needs no restart; a renewal that cannot
// be read leaves the old one in use.
func (h *hub) publicTLS() (*tls.Config, error) {
	c := h.plan.Config.Server.TLS
	if c == nil {
		return nil, nil
	}
	k := &keyPair{config: *c, warn: func(err error) {
		h.logger.Error("the renewed certificate cannot be used; the old one stays", "certificate", c.Certificate, "error", err)
	}}
	if _, err := k.current(); err != nil {
		return nil, fmt.Errorf("%w: server.tls: %w", ErrEnvironment, err)
	}
	version := uint16(tls.VersionTLS12)
	if c.MinVersion == "1.3" {
		version = tls.VersionTLS13
	}
	return &tls.Config{
		MinVersion: version,
		// Asked for and not judged here: a connection whose scheme is mtls judges the certificate by its own authorities.
		ClientAuth:     tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return k.current() },
	}, nil
}

// keyPair is a certificate that follows its files.
type keyPair struct {
	config config.TLS
	warn   func(error)

	mu      sync.Mutex
	loaded  *tls.Certificate
	changed time.Time // of the files that loaded came from
	looked  time.Time
}

func (k *keyPair) current() (*tls.Certificate, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.loaded != nil && time.Since(k.looked) < recheck {
		return k.loaded, nil
	}
	k.looked = time.Now()
	changed, err := newest(k.config.Certificate, k.config.Key)
	if err == nil && k.loaded != nil && changed.Equal(k.changed) {
		return k.loaded, nil
	}
	if err == nil {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(k.config.Certificate, k.config.Key); err == nil {
			k.loaded, k.changed = &pair, changed
		}
	}
	if err != nil && k.loaded != nil {
		k.warn(err)
		return k.loaded, nil
	}
	return k.loaded, err
}

func newest(paths ...string) (time.Time, error) {
	var latest time.Time
	for _, p := range paths {
		info, err := os.Stat(p)
		if err != nil {
			return time.Time{}, err
		}
		if info.ModTime().After(latest) {
			latest = info.ModTime()
		}
	}
	return latest, nil
}
