package pgstore

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// fault is what an error says about trying again.
type fault int

const (
	faultFinal fault = iota // the same statement fails again
	faultClash              // another transaction was in the way: a deadlock, a serialization failure, a lock that was not to be had
	faultLost               // the connection is gone; whether the statement was done is unknown
)

func faultOf(err error) fault {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pg.Code == "40001", pg.Code == "40P01", pg.Code == "55P03":
			return faultClash
		case strings.HasPrefix(pg.Code, "57P"), strings.HasPrefix(pg.Code, "08"):
			return faultLost
		}
		return faultFinal
	}
	var network net.Error
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, pgconn.ErrConnClosed) || pgconn.SafeToRetry(err) || errors.As(err, &network) {
		return faultLost
	}
	return faultFinal
}

// try runs f, and once more when that may help. f is something that changes nothing when it is done twice. It is bounded by ctx and by statementLimit.
func (s *Store) try(ctx context.Context, kind string, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, statementLimit)
	defer cancel()
	return s.tryAtLength(ctx, kind, f)
}

// tryAtLength is try for what may take long, within ctx alone.
func (s *Store) tryAtLength(ctx context.Context, kind string, f func(context.Context) error) error {
	began := time.Now()
	err := f(ctx)
	if err != nil && ctx.Err() == nil {
		switch faultOf(err) {
		case faultLost:
			s.pool.Reset() // the others are most likely gone, too
			fallthrough
		case faultClash:
			s.metrics.retries.WithLabelValues(kind).Inc()
			err = f(ctx)
		case faultFinal:
		}
	}
	s.metrics.seconds.WithLabelValues(kind).Observe(time.Since(began).Seconds())
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return explain(s.pool.Config().ConnConfig, err)
	}
	return err
}
