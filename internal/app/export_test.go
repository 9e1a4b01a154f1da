package app

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewire/tidewire/config"
)

// Recheck is how often a certificate's files are looked at.
const Recheck = recheck

// KeyPair returns what the public door asks for its certificate.
func KeyPair(certificate, key string, warn func(error)) func() (*tls.Certificate, error) {
	return (&keyPair{config: config.TLS{Certificate: certificate, Key: key}, warn: warn}).current
}

// RetainOnce opens a plan's storage, removes what has outlived its retention, as a running hub does every few minutes, and closes it.
func RetainOnce(ctx context.Context, plan *Plan, logger *slog.Logger) (err error) {
	h := &hub{plan: plan, logger: logger, registry: prometheus.NewRegistry()}
	defer func() { err = errors.Join(err, h.close()) }()
	if err := h.openStorage(ctx); err != nil {
		return err
	}
	if err := h.storage.Connect(ctx); err != nil {
		return err
	}
	return h.storage.Retain(ctx)
}
