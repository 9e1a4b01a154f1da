package bench

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"
)

// listen gives a listener on loopback.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func dialled(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestForwardCarriesBothWaysInTurn(t *testing.T) {
	t.Parallel()
	var servers [2]net.Listener
	var serving sync.WaitGroup
	for i := range servers {
		servers[i] = listen(t)
		serving.Go(func() {
			for {
				c, err := servers[i].Accept()
				if err != nil {
					return
				}
				said, _ := io.ReadAll(c) // it has come to its end: the other way is open still
				_, _ = c.Write(append([]byte{'a' + byte(i)}, said...))
				_ = c.Close()
			}
		})
	}
	f := forward(listen(t), func(n int) (net.Conn, error) { return net.Dial("tcp", servers[n%2].Addr().String()) })
	for _, want := range []string{"a hello", "b hello", "a hello"} {
		c := dialled(t, f.listener.Addr().String()).(*net.TCPConn)
		_, _ = c.Write([]byte(" hello"))
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != want || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for _, s := range servers {
		_ = s.Close()
	}
	serving.Wait()
	if err := f.close(); err != nil {
		t.Error(err)
	}
}

func TestForwardEndsWhatItCannotCarryAndWhatIsOpen(t *testing.T) {
	t.Parallel()
	server := listen(t)
	defer server.Close()
	f := forward(listen(t), func(n int) (net.Conn, error) {
		if n == 0 {
			return nil, errors.New("nobody is there")
		}
		return net.Dial("tcp", server.Addr().String())
	})
	refused := dialled(t, f.listener.Addr().String())
	if _, err := refused.Read(make([]byte, 1)); err == nil {
		t.Error("a connection to nobody stays open")
	}
	open := dialled(t, f.listener.Addr().String())
	far, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	for range 2 {
		if err := f.close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := open.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it stays open: %v", err)
	}
}

// Where the machine has no namespaces for this user the sites are plain, and it is said why.
func TestSitesReachOneAnotherOnlyByTheirDoors(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the server") }))
	defer server.Close()
	address := server.Listener.Addr().String()
	secret := listen(t)
	defer secret.Close()

	sites, why := newSites(t.Context(), 2, []string{address})
	defer func() {
		for _, s := range sites {
			s.close()
		}
	}()
	if len(sites) != 2 || sites[0].listen == sites[1].listen || sites[0].admin == sites[1].admin {
		t.Fatalf("sites %+v, %v", sites, why)
	}
	if why != nil && !errors.Is(why, fs.ErrPermission) && !errors.Is(why, errors.ErrUnsupported) {
		t.Fatal(why)
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(_ context.Context, _, at string) (net.Conn, error) { return sites[1].dial(at) },
	}}
	if text := fetched(t, &client, "http://"+address); text != "the server" {
		t.Errorf("through the door: %q", text)
	}
	if c, err := sites[1].dial(secret.Addr().String()); (err == nil) == (why == nil) {
		t.Errorf("what has no door: %v", err)
		if err == nil {
			_ = c.Close()
		}
	}
	// What listens inside is asked from outside by its door.
	var inside net.Listener
	if err := sites[0].space.do(func() (err error) { inside, err = net.Listen("tcp", sites[0].admin); return err }); err != nil {
		t.Fatal(err)
	}
	ready := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ready") })}
	var serving sync.WaitGroup
	serving.Go(func() { _ = ready.Serve(inside) })
	outside := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	if text := fetched(t, &outside, sites[0].ready); text != "ready" {
		t.Errorf("from outside: %q", text)
	}
	_ = ready.Close()
	serving.Wait()
}

func fetched(t *testing.T, client *http.Client, url string) string {
	t.Helper()
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
