package rest_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/connectors/rest"
)

// script is a server that says exactly what a test wants, one function for each connection in turn; the last one serves all that follow.
func script(t testing.TB, serve ...func(c net.Conn, r *bufio.Reader)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve[min(n, len(serve)-1)](c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + l.Addr().String() + "/"
}

// request reads one request and returns its body.
func request(r *bufio.Reader) ([]byte, error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(req.Body)
}

// says answers every request on a connection with the same bytes.
func says(answer string) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		for {
			if _, err := request(r); err != nil {
				return
			}
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
		}
	}
}

func local(t testing.TB) *rest.Client {
	return client(t, rest.Settings{AllowPrivate: true}, rest.Options{})
}

func TestAnswersAreReadAsTheyAre(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		answer, body string
		code         int
		cut          bool
		fails        string
	}{
		"empty":               {answer: "HTTP/1.1 204 No Content\r\n\r\n", code: 204},
		"length":              {answer: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", code: 200, body: "hello"},
		"chunked":             {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", code: 200, body: "hello"},
		"after informational": {answer: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", code: 200, body: "ok"},
		"long":                {answer: "HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("x", 70000), code: 200, body: strings.Repeat("x", 65536), cut: true},
		"long chunk":          {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20000\r\n" + strings.Repeat("x", 0x20000) + "\r\n0\r\n\r\n", code: 200, body: strings.Repeat("x", 65536), cut: true},
		"at the bound":        {answer: "HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n" + strings.Repeat("x", 65536), code: 200, body: strings.Repeat("x", 65536)},
		"endless header":      {answer: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20), fails: "header is larger"},
		"many headers":        {answer: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1<<16) + "\r\n", fails: "header is"},
		"wasteful chunks":     {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("1\r\nx\r\n", 60000) + "0\r\n\r\n", fails: "framing"},
		"another protocol":    {answer: "SSH-2.0-OpenSSH_9.2\r\n\r\n", fails: "not HTTP"},
		"only informational":  {answer: strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 50), fails: "1xx"},
		"switching":           {answer: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", fails: "1xx"},
		"two lengths":         {answer: "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", fails: "answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			res, err := local(t).Do(t.Context(), rest.Request{Endpoint: to(t, "POST", script(t, says(tt.answer))), Body: []byte("{}")})
			if tt.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fails) {
					t.Fatalf("got %v, want an error about %q", err, tt.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if res.Code != tt.code || string(res.Body) != tt.body || res.Truncated != tt.cut {
				t.Errorf("got %d, %d bytes, truncated %v", res.Code, len(res.Body), res.Truncated)
			}
		})
	}
}

func TestHalfAnAnswerIsNoAnswer(t *testing.T) {
	t.Parallel()
	for _, answer := range []string{
		"", "HTTP/1.1 20", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nfour",
	} {
		u := script(t, func(c net.Conn, r *bufio.Reader) {
			if _, err := request(r); err == nil {
				io.WriteString(c, answer)
			}
		})
		if res, err := local(t).Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u), Body: []byte("{}")}); err == nil {
			t.Errorf("%q: got %d, want an error", answer, res.Code)
		}
	}
}

func TestTarpitsEndWithTheContext(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]string{
		"no answer": "", "half a status": "HTTP/1.", "half a header": "HTTP/1.1 200 OK\r\nX-A: b", "half a body": "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
		"no end": "HTTP/1.1 200 OK\r\n\r\nx",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := script(t, func(c net.Conn, r *bufio.Reader) {
				if _, err := request(r); err != nil {
					return
				}
				io.WriteString(c, start)
				r.ReadByte() // until the client gives up
			})
			c := local(t)
			if _, err := c.Do(short(t), rest.Request{Endpoint: to(t, "POST", u), Body: []byte("{}")}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want the deadline", err)
			}
			if c.Idle() != 0 {
				t.Error("the connection was kept")
			}
		})
	}
}

func TestDripsDoNotHoldALineOpen(t *testing.T) {
	t.Parallel()
	u := server(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil { // one byte after the other, for ever
			io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	if _, err := local(t).Do(short(t), rest.Request{Endpoint: to(t, "POST", u)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}

func TestHugeAndCompressedAnswersAreCut(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(make([]byte, 16<<20))
	z.Close()
	var sent atomic.Int64
	u := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			t.Errorf("compression was asked for: %s", r.Header.Get("Accept-Encoding"))
		}
		if r.URL.Path == "/bomb" {
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(bomb.Bytes())
			return
		}
		for range 1 << 30 / (64 << 10) {
			n, err := w.Write(make([]byte, 64<<10))
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	c := local(t)
	res, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u+"/huge")})
	if err != nil || len(res.Body) != 64<<10 || !res.Truncated {
		t.Fatalf("got %v, %v", res, err)
	}
	res, err = c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u+"/bomb")})
	if err != nil || len(res.Body) > bomb.Len() {
		t.Fatalf("got %v, %v: a compressed answer was expanded", res, err)
	}
	if n := sent.Load(); n > 64<<20 {
		t.Errorf("%d bytes were read", n)
	}
}

func TestConnectionsAreKeptAndShared(t *testing.T) {
	t.Parallel()
	var opened atomic.Int64
	serve := says("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	u := script(t, func(c net.Conn, r *bufio.Reader) { opened.Add(1); serve(c, r) })
	c := local(t)
	for range 20 {
		if _, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u), Body: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	if n := opened.Load(); n != 1 {
		t.Errorf("20 requests in a row took %d connections", n)
	}
	c.Age(2 * time.Minute)
	if _, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u)}); err != nil {
		t.Fatal(err)
	}
	if n := opened.Load(); n != 2 {
		t.Errorf("a connection that was unused for two minutes was used again (%d opened)", n)
	}
	c.Close()
	c.Close()
	if c.Idle() != 0 {
		t.Error("Close leaves connections open")
	}
	if _, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u)}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: got %v", err)
	}
}

func TestClosedConnectionsAreReplacedUnseen(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	once := func(c net.Conn, r *bufio.Reader) { // answers, then hangs up on the second request
		for n := range 2 {
			if _, err := request(r); err != nil {
				return
			}
			asked.Add(1)
			if n == 0 {
				io.WriteString(c, answer)
			}
		}
	}
	u := script(t, once, says(answer))
	c := local(t)
	key := []rest.Field{{Name: "Idempotency-Key", Value: "k1"}}
	for range 2 {
		if _, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u), Fields: key, Body: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != 2 {
		t.Error("the second request did not meet the kept connection, so this proves nothing")
	}
	// Without a key nobody can tell whether the first try has had its effect.
	u = script(t, once, says(answer))
	if _, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u), Body: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u), Body: []byte("{}")}); err == nil {
		t.Error("a POST without an idempotency key was made twice")
	}
}

func TestWordsNobodyAskedForAreNoAnswer(t *testing.T) {
	t.Parallel()
	const first, unasked = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"
	for name, together := range map[string]bool{"with the answer": true, "after the answer": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answered, said := make(chan struct{}), make(chan struct{})
			u := script(t, func(c net.Conn, r *bufio.Reader) {
				if _, err := request(r); err != nil {
					return
				}
				if together {
					io.WriteString(c, first+unasked)
				} else {
					io.WriteString(c, first)
					<-answered
					io.WriteString(c, unasked)
				}
				close(said)
				r.ReadByte()
			}, says("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"))
			c := local(t)
			if _, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u)}); err != nil {
				t.Fatal(err)
			}
			close(answered)
			<-said
			res, err := c.Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u)})
			if err != nil || res.Code != 500 {
				t.Errorf("got %v, %v: the answer to no request was taken for this one's", res, err)
			}
		})
	}
}

func TestEarlyRefusalOfALargeBodyIsHeard(t *testing.T) {
	t.Parallel()
	u := server(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	})
	res, err := local(t).Do(t.Context(), rest.Request{Endpoint: to(t, "POST", u), Body: make([]byte, 200<<10)})
	if err != nil || res.Code != 413 {
		t.Errorf("got %v, %v", res, err)
	}
}

func TestBodiesArriveWhole(t *testing.T) {
	t.Parallel()
	u := server(t, func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %d %v %v", r.Method, r.URL, len(b), err, bytes.Count(b, []byte("x")) == len(b))
	})
	c := local(t)
	var wg sync.WaitGroup
	for _, size := range []int{0, 1, 1000, 32<<10 - 1, 32 << 10, 32<<10 + 1, 1 << 20} {
		for _, method := range []string{"POST", "PUT", "PATCH"} {
			wg.Go(func() {
				e := to(t, method, u+"/a%20b/c?d=e%26f")
				for range 5 {
					res, err := c.Do(t.Context(), rest.Request{Endpoint: e, Body: bytes.Repeat([]byte("x"), size)})
					if want := fmt.Sprintf("%s /a%%20b/c?d=e%%26f %d <nil> true", method, size); err != nil || string(res.Body) != want {
						t.Errorf("got %v, %v; want %s", res, err, want)
					}
				}
			})
		}
	}
	wg.Wait()
}

func TestCancelledRequestsEndAtOnce(t *testing.T) {
	t.Parallel()
	came := make(chan struct{})
	u := script(t, func(_ net.Conn, r *bufio.Reader) {
		request(r)
		close(came)
		r.ReadByte()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-came; cancel() }()
	if _, err := local(t).Do(ctx, rest.Request{Endpoint: to(t, "POST", u)}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-came
}
