package load

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// script is a connection whose peer's bytes are known; they come in pieces of at most chunk bytes.
type script struct {
	net.Conn
	data  []byte
	chunk int
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), s.chunk)], s.data)
	s.data = s.data[n:]
	return n, nil
}

func TestResponses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		bytes string
		want  response
		left  int // bytes that belong to the next answer
	}{
		"plain":         {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP", response{200, -1, false}, 4},
		"no content":    {"HTTP/1.1 204 No Content\r\n\r\n", response{204, -1, false}, 0},
		"informational": {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n", response{202, -1, false}, 0},
		"chunked":       {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\nZ", response{200, -1, false}, 1},
		"until close":   {"HTTP/1.1 200 OK\r\n\r\nall the rest", response{200, -1, true}, 0},
		"retry after":   {"HTTP/1.1 503 No\r\nRETRY-AFTER: 7\r\nConnection: Close\r\nContent-Length: 0\r\n\r\n", response{503, 7, true}, 0},
		"old":           {"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", response{200, -1, true}, 0},
	} {
		for _, chunk := range []int{1, 3, 10_000} {
			w := newWire(&script{data: []byte(c.bytes), chunk: chunk})
			got, err := w.response()
			rest := len(w.conn.(*script).data) + w.w - w.r
			if err != nil || got != c.want || rest != c.left {
				t.Errorf("%s in pieces of %d: %+v, %v, %d bytes left; want %+v, %d", name, chunk, got, err, rest, c.want, c.left)
			}
		}
	}
}

func TestCutResponsesAreErrors(t *testing.T) {
	t.Parallel()
	const whole = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
	for n := range len(whole) {
		if got, err := newWire(&script{data: []byte(whole[:n]), chunk: 7}).response(); err == nil {
			t.Errorf("cut after %d bytes: %+v", n, got)
		}
	}
}

func TestEndlessResponsesAreErrors(t *testing.T) {
	t.Parallel()
	block := strings.Repeat("x", 1<<20)
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(block), block)
	for name, text := range map[string]string{
		"head":        "HTTP/1.1 200 OK\r\nX: " + block,
		"length":      "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
		"chunks":      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat(chunk, 9) + "0\r\n\r\n",
		"until close": "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat(block, 9),
	} {
		if _, err := newWire(&script{data: []byte(text), chunk: 1 << 20}).response(); !errors.Is(err, errTooLarge) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), 3)
	f.Add([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n"), 1)
	f.Add([]byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 99999999999 x\r\n\r\n"), 100)
	f.Fuzz(func(t *testing.T, data []byte, chunk int) {
		begin := time.Now()
		w := newWire(&script{data: data, chunk: max(chunk, 1)})
		for {
			if _, err := w.response(); err != nil {
				break
			}
		}
		if cap(w.buf) > 4*maxBody || time.Since(begin) > 10*time.Second {
			t.Errorf("%d bytes of input took %d bytes of memory", len(data), cap(w.buf))
		}
		findID(data)
	})
}
