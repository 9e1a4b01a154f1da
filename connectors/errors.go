package connectors

import (
	"errors"
	"time"
)

// Failure is what a Target knows about an error beside its text. Built by Permanent, RetryAfter, Gone and WithCode.
type Failure struct {
	err error
	// Code is the target system's status code; 0 when it gave none.
	Code int
	// Final: trying the same delivery again cannot help.
	Final bool
	// Wait is how long the target asked to be left alone; 0 when it did not say.
	Wait time.Duration
	// Gone: the address does not exist any more; the whole route should stop.
	Gone bool
}

func (f *Failure) Error() string { return f.err.Error() }

// Unwrap returns the error that was marked.
func (f *Failure) Unwrap() error { return f.err }

// Permanent marks err: do not try this delivery again, it is a dead letter. Permanent(nil) is nil.
func Permanent(err error) error { return mark(err, func(f *Failure) { f.Final = true }) }

// RetryAfter marks err: the target asks to be left alone for d, which the pipeline obeys up to its cap.
func RetryAfter(err error, d time.Duration) error {
	return mark(err, func(f *Failure) { f.Wait = max(d, 0) })
}

// Gone marks err: the target says that this address is no more (HTTP 410). The route is paused and the delivery kept.
func Gone(err error) error { return mark(err, func(f *Failure) { f.Gone = true }) }

// WithCode records the target system's status code with err.
func WithCode(err error, code int) error { return mark(err, func(f *Failure) { f.Code = code }) }

// AsFailure returns what is known about err: its marks, or a Failure without any (try again).
func AsFailure(err error) Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return *f
	}
	return Failure{err: err}
}

// mark copies the marks err carries already, so that they combine: WithCode(RetryAfter(err, d), 429).
func mark(err error, set func(*Failure)) error {
	if err == nil {
		return nil
	}
	f := AsFailure(err)
	f.err = err
	set(&f)
	return &f
}
