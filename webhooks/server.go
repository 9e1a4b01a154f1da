package webhooks

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"
)

// Bounds of a server that NewServer makes.
const (
	headerTimeout  = 5 * time.Second
	idleTimeout    = 60 * time.Second
	answerTimeout  = 30 * time.Second
	maxHeaderBytes = 32 << 10
)

// NewServer returns a server for an Ear's Handler on a listener from NewListener. Headers have 5 s, a body 10 s and a second
// more for each 64 KiB it has brought, an answer 30 s to be made and taken, an idle connection 60 s; headers are at most 32 KiB. HTTP/1.1 only: it is what
// providers speak, and its limits are the ones above. tlsConfig may be nil; then the server is for Serve, else for ServeTLS. Shutdown stops taking and
// waits for the calls in hand.
func NewServer(handler http.Handler, logger *slog.Logger, tlsConfig *tls.Config) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           handler,
		TLSConfig:         tlsConfig,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout + bodyGrace,
		WriteTimeout:      answerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		Protocols:         protocols,
		ConnContext:       withConn,
		// Strangers cause these lines (bad handshakes, half calls): not for an operator's eyes by default.
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}
