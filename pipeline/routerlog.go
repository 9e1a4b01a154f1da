package pipeline

import (
	"context"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill"
)

// routerLog is the hub's log as Watermill's router writes to it. Watermill's own adapter makes attributes of the fields of
// every line, two for each message, before it asks whether anybody wants to read it.
type routerLog struct{ l *slog.Logger }

func newRouterLog(l *slog.Logger) watermill.LoggerAdapter {
	return routerLog{l.With("component", "router")}
}

// Error implements watermill.LoggerAdapter.
func (r routerLog) Error(msg string, err error, fields watermill.LogFields) {
	r.l.LogAttrs(context.Background(), slog.LevelError, msg, append(attributes(fields), slog.Any("error", err))...)
}

// Info implements watermill.LoggerAdapter. What Watermill tells at this level is detail to us.
func (r routerLog) Info(msg string, fields watermill.LogFields) { r.line(slog.LevelDebug, msg, fields) }

// Debug implements watermill.LoggerAdapter.
func (r routerLog) Debug(msg string, fields watermill.LogFields) {
	r.line(slog.LevelDebug, msg, fields)
}

// Trace implements watermill.LoggerAdapter.
func (r routerLog) Trace(msg string, fields watermill.LogFields) {
	r.line(watermill.LevelTrace, msg, fields)
}

// With implements watermill.LoggerAdapter.
func (r routerLog) With(fields watermill.LogFields) watermill.LoggerAdapter {
	return routerLog{slog.New(r.l.Handler().WithAttrs(attributes(fields)))}
}

func (r routerLog) line(level slog.Level, msg string, fields watermill.LogFields) {
	if r.l.Enabled(context.Background(), level) {
		r.l.LogAttrs(context.Background(), level, msg, attributes(fields)...)
	}
}

func attributes(fields watermill.LogFields) []slog.Attr {
	all := make([]slog.Attr, 0, len(fields)+1)
	for name, value := range fields {
		all = append(all, slog.Any(name, value))
	}
	return all
}
