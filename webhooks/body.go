package webhooks

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tidewire/tidewire/connectors"
)

const (
	// smallBody is up to what a body is read without asking anybody for memory. Nearly every webhook is smaller.
	smallBody = 64 << 10
	// firstRead is what is taken for a body before any of it has come: its Content-Length is only a claim.
	firstRead = 8 << 10
	// maxRatio bounds how much a compressed body may grow.
	maxRatio = 100

	// bodyGrace is how long a body may take, and bodyRate, in bytes a second, what it must have brought to take longer.
	bodyGrace = 10 * time.Second
	bodyRate  = 64 << 10
	// maxDiscard and discardTime bound what is read of a call that is refused for its body.
	maxDiscard  = 8 << 20
	discardTime = 2 * time.Second
	// seatWait is how long a large body waits for memory.
	seatWait = 5 * time.Second
)

// stopped is why a call went no further.
type stopped struct {
	reply  connectors.Reply
	result result
}

// body reads the whole body, expanded where the connection allows that. The slice is the caller's for good; nothing is
// pooled, because the log keeps it.
func (e *Ear) body(w http.ResponseWriter, r *http.Request, d *door, s *seat) ([]byte, *stopped) {
	encoding, stop := contentEncoding(r.Header, d.limits.Compressed)
	if stop != nil {
		discard(w, r)
		return nil, stop
	}
	limit := d.limits.MaxBody
	if r.ContentLength > limit {
		discard(w, r)
		return nil, &stopped{overLimit, tooLarge}
	}
	wire, err := e.read(w, r, limit, s)
	body := wire
	switch {
	case err != nil:
	case encoding != "":
		body, err = expand(r.Context(), wire, encoding, limit, s)
		e.reuse(wire)
	default:
		if body = trim(wire); cap(body) < cap(wire) {
			e.reuse(wire)
		}
	}
	if err != nil {
		stop := e.readFailure(err)
		if stop.result == tooLarge {
			discard(w, r)
		}
		return nil, stop
	}
	return body, nil
}

// discard throws away what is left of a body that is too large or not understood, up to a bound: a caller that is cut off while it sends may see a broken
// connection in place of its answer, and would try for ever. One that waits to be asked has not sent anything.
func discard(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Expect") != "" {
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(discardTime))
	_, _ = io.CopyN(io.Discard, r.Body, maxDiscard)
}

var (
	errOver   = errors.New("over the limit")
	errCoding = errors.New("not in its content encoding")
	errFull   = errors.New("no memory for a large body")
)

func (e *Ear) readFailure(err error) *stopped {
	switch {
	case errors.Is(err, errOver):
		return &stopped{overLimit, tooLarge}
	case errors.Is(err, errCoding):
		return &stopped{undecodable, invalid}
	case errors.Is(err, errFull):
		return &stopped{e.unready, unavailable}
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &stopped{tooSlow, invalid}
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &stopped{overLimit, tooLarge}
	}
	return &stopped{truncated, invalid}
}

// contentEncoding returns "gzip", "deflate" or "", or why the call is not read at all. A list of encodings is none of the words.
func contentEncoding(h http.Header, compressed bool) (string, *stopped) {
	values := h["Content-Encoding"]
	if len(values) == 0 {
		return "", nil
	}
	if len(values) > 1 {
		return "", &stopped{noNesting, unsupported}
	}
	switch v := strings.ToLower(strings.TrimSpace(values[0])); v {
	case "", "identity":
		return "", nil
	case "gzip", "x-gzip", "deflate":
		if compressed {
			return strings.TrimPrefix(v, "x-"), nil
		}
		return "", &stopped{noEncoding, unsupported}
	}
	if compressed {
		return "", &stopped{noNesting, unsupported}
	}
	return "", &stopped{noEncoding, unsupported}
}

// read takes what comes over the wire, as far as it goes, into a buffer that may be much too large for it. Memory grows with what has come, never with what was announced.
func (e *Ear) read(w http.ResponseWriter, r *http.Request, limit int64, s *seat) ([]byte, error) {
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	src := http.MaxBytesReader(w, r.Body, limit)
	want := limit
	if r.ContentLength > 0 {
		want = r.ContentLength
	}
	// One byte more than is wanted, so that the end is seen without growing.
	buf := make([]byte, 0, min(want+1, firstRead))
	var begun time.Time
	for {
		if len(buf) == cap(buf) {
			grown := 2 * int64(cap(buf))
			if cap(buf) >= smallBody {
				if err := s.take(r.Context(), want); err != nil {
					return nil, err
				}
				grown = want + 1 // its memory is set aside: growing by steps would leave as much again behind as garbage
				if spare, ok := e.spare.Get().(*[]byte); ok && int64(cap(*spare)) >= grown {
					buf = append((*spare)[:0], buf...)
				}
			}
			if int64(cap(buf)) < min(want+1, grown) {
				buf = slices.Grow(buf, int(min(want+1, grown))-len(buf))
			}
		}
		n, err := src.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			break
		}
		if err != nil {
			e.reuse(buf)
			return nil, err
		}
		if int64(len(buf)) == r.ContentLength {
			continue // only the end is still to be seen
		}
		// It comes in pieces. The first wait was bounded by the server's own read timeout.
		now := time.Now()
		if begun.IsZero() {
			begun = now
		}
		allowed := bodyGrace + time.Duration(len(buf))*time.Second/bodyRate
		// A server that cannot set deadlines has bounds of its own, or none: it is not ours.
		_ = http.NewResponseController(w).SetReadDeadline(begun.Add(allowed))
	}
	return buf, nil
}

// reuse lets the next large body have the memory of one that nobody holds any more: a hundred refused at once leave little garbage.
func (e *Ear) reuse(buf []byte) {
	if cap(buf) > smallBody {
		e.spare.Put(&buf)
	}
}

// trim copies a body out of a buffer that is much too large for it: the log may keep it for long.
func trim(buf []byte) []byte {
	if cap(buf)-len(buf) > len(buf)/4+512 {
		return bytes.Clone(buf)
	}
	return buf
}

// expand undoes one content encoding, of at most limit bytes and at most maxRatio times what came. It does so twice: the first time only to count, so that a
// bomb costs no memory, and an honest body no more than its size.
func expand(ctx context.Context, wire []byte, encoding string, limit int64, s *seat) ([]byte, error) {
	limit = min(limit, maxRatio*int64(len(wire)))
	src := bytes.NewReader(wire)
	z, err := inflate(src, wire, encoding)
	if err != nil {
		return nil, errCoding
	}
	size, err := io.Copy(io.Discard, io.LimitReader(z, limit+1))
	switch {
	case size > limit:
		return nil, errOver
	case err != nil:
		return nil, errCoding
	case src.Len() > 0:
		// What follows the end was not seen by the signature's maker: the body is not what it seems.
		return nil, errCoding
	}
	if size > smallBody {
		if err := s.take(ctx, size); err != nil {
			return nil, err
		}
	}
	body := make([]byte, size)
	if z, err = inflate(bytes.NewReader(wire), wire, encoding); err == nil {
		_, err = io.ReadFull(z, body)
	}
	if err != nil {
		return nil, errCoding
	}
	return body, nil
}

// inflate reads src, which has the bytes of wire, in their content encoding.
func inflate(src io.Reader, wire []byte, encoding string) (io.Reader, error) {
	switch {
	case encoding == "gzip":
		return gzip.NewReader(src)
	case len(wire) >= 2 && wire[0]&0x0f == 8 && (uint(wire[0])<<8|uint(wire[1]))%31 == 0:
		return zlib.NewReader(src)
	}
	// Some send the bare stream and call it deflate.
	return flate.NewReader(src), nil
}

// seat is one large body's share of the memory set aside for them.
type seat struct {
	ear    *Ear
	weight int64
}

// take asks for weight bytes in all; it waits its turn for at most seatWait.
func (s *seat) take(ctx context.Context, weight int64) error {
	weight = min(weight, s.ear.memorySize)
	if weight <= s.weight {
		return nil
	}
	more := weight - s.weight
	if !s.ear.memory.TryAcquire(more) {
		ctx, cancel := context.WithTimeout(ctx, seatWait)
		defer cancel()
		if err := s.ear.memory.Acquire(ctx, more); err != nil {
			return errFull
		}
	}
	s.weight = weight
	return nil
}

func (s *seat) release() {
	if s.weight > 0 {
		s.ear.memory.Release(s.weight)
		s.weight = 0
	}
}
