package load

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
)

// Bounds on what a peer may send: peers are our own, but a broken one must not take the harness with it.
const (
	maxHead = 64 << 10
	maxBody = 8 << 20
)

var errTooLarge = errors.New("message is larger than the harness reads")

// wire reads HTTP/1.1 messages from one connection into one reused buffer.
type wire struct {
	conn net.Conn
	buf  []byte
	r, w int
}

func newWire(c net.Conn) *wire { return &wire{conn: c, buf: make([]byte, 8<<10)} }

// fill reads once more from the connection, making room first.
func (x *wire) fill() error {
	if x.r > 0 && x.r == x.w {
		x.r, x.w = 0, 0
	}
	if x.w == len(x.buf) {
		if x.r > 0 {
			copy(x.buf, x.buf[x.r:x.w])
			x.r, x.w = 0, x.w-x.r
		} else {
			x.buf = append(x.buf, make([]byte, len(x.buf))...)
		}
	}
	n, err := x.conn.Read(x.buf[x.w:])
	x.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// head returns the bytes up to and including the empty line, valid until the next call. io.EOF means that the
// peer closed between messages.
func (x *wire) head() ([]byte, error) {
	from := x.r
	for {
		if i := bytes.Index(x.buf[from:x.w], []byte("\r\n\r\n")); i >= 0 {
			h := x.buf[x.r : from+i+4]
			x.r = from + i + 4
			return h, nil
		}
		if x.w-x.r > maxHead {
			return nil, errTooLarge
		}
		scanned := max(x.w-x.r-3, 0)
		empty := x.w == x.r
		if err := x.fill(); err != nil {
			if errors.Is(err, io.EOF) && !empty {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		from = x.r + scanned
	}
}

// body returns the next n bytes, valid until the next call.
func (x *wire) body(n int) ([]byte, error) {
	if n > maxBody {
		return nil, errTooLarge
	}
	for x.w-x.r < n {
		if err := x.fill(); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
	b := x.buf[x.r : x.r+n]
	x.r += n
	return b, nil
}

// chunked returns a chunked body, decoded into memory of its own.
func (x *wire) chunked() ([]byte, error) {
	var out []byte
	for {
		line, err := x.line()
		if err != nil {
			return nil, err
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31)
		if err != nil {
			return nil, fmt.Errorf("chunk size %.20q is not a number", size)
		}
		if len(out)+int(n) > maxBody {
			return nil, errTooLarge
		}
		if n == 0 {
			break
		}
		b, err := x.body(int(n) + 2)
		if err != nil {
			return nil, err
		}
		out = append(out, b[:n]...)
	}
	for { // trailers
		line, err := x.line()
		if err != nil || len(line) == 0 {
			return out, err
		}
	}
}

// line returns the bytes up to the next CRLF, without it.
func (x *wire) line() ([]byte, error) {
	for {
		if i := bytes.Index(x.buf[x.r:x.w], []byte("\r\n")); i >= 0 {
			l := x.buf[x.r : x.r+i]
			x.r += i + 2
			return l, nil
		}
		if x.w-x.r > maxHead {
			return nil, errTooLarge
		}
		if err := x.fill(); err != nil {
			return nil, err
		}
	}
}

// untilClose returns everything up to the end of the connection.
func (x *wire) untilClose() ([]byte, error) {
	for {
		if x.w-x.r > maxBody {
			return nil, errTooLarge
		}
		if err := x.fill(); errors.Is(err, io.EOF) {
			b := x.buf[x.r:x.w]
			x.r = x.w
			return b, nil
		} else if err != nil {
			return nil, err
		}
	}
}

// framing is what a head says about the body that follows and about the connection.
type framing struct {
	length  int // -1: not said
	chunked bool
	close   bool
}

// frame reads the framing headers out of a head; each receives every other header (name in lower case).
func frame(head []byte, each func(name string, value []byte)) (framing, error) {
	f := framing{length: -1}
	_, head, _ = bytes.Cut(head, []byte("\r\n"))
	var name [32]byte
	for len(head) > 2 {
		var line []byte
		line, head, _ = bytes.Cut(head, []byte("\r\n"))
		i := bytes.IndexByte(line, ':')
		if i <= 0 || i > len(name) {
			continue
		}
		for j := range i {
			c := line[j]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			name[j] = c
		}
		value := bytes.TrimSpace(line[i+1:])
		switch string(name[:i]) {
		case "content-length":
			n, err := strconv.ParseUint(string(value), 10, 31)
			if err != nil {
				return f, fmt.Errorf("content-length %.20q is not a number", value)
			}
			f.length = int(n)
		case "transfer-encoding":
			f.chunked = bytes.EqualFold(value, []byte("chunked"))
		case "connection":
			f.close = bytes.EqualFold(value, []byte("close"))
		case "webhook-id":
			if each != nil {
				each("webhook-id", value)
			}
		case "retry-after":
			if each != nil {
				each("retry-after", value)
			}
		}
	}
	return f, nil
}

// response is one answer, read in full.
type response struct {
	status     int
	retryAfter int // seconds; -1: not said
	close      bool
}

// response reads one answer to the end of its body; informational ones are passed over.
func (x *wire) response() (response, error) {
	for {
		head, err := x.head()
		if err != nil {
			return response{}, err
		}
		if len(head) < 12 || !bytes.HasPrefix(head, []byte("HTTP/1.")) {
			return response{}, fmt.Errorf("answer starts with %.20q, not with an HTTP status line", head)
		}
		r := response{retryAfter: -1}
		if r.status, err = strconv.Atoi(string(head[9:12])); err != nil {
			return response{}, fmt.Errorf("status %.3q is not a number", head[9:12])
		}
		old := head[7] == '0'
		f, err := frame(head, func(name string, value []byte) {
			if name == "retry-after" {
				if n, err := strconv.Atoi(string(value)); err == nil && n >= 0 {
					r.retryAfter = n
				}
			}
		})
		if err != nil {
			return response{}, err
		}
		if r.status < 200 {
			continue
		}
		r.close = f.close || old
		switch {
		case r.status == 204 || r.status == 304:
		case f.chunked:
			_, err = x.chunked()
		case f.length >= 0:
			_, err = x.body(f.length)
		default:
			r.close = true
			_, err = x.untilClose()
		}
		return r, err
	}
}
