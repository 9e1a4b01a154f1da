package bench

import (
	"errors"
	"io"
	"net"
	"sync"
)

// forwarder carries TCP connections on: from one network to another, or from one address to several hubs in turn. What it costs is the bench's
// own, not a hub's.
type forwarder struct {
	listener net.Listener
	done     sync.WaitGroup

	mu     sync.Mutex
	open   map[net.Conn]struct{}
	closed bool
}

// forward takes connections from l, which it owns, and has dial open the other end of each; n counts them from 0.
func forward(l net.Listener, dial func(n int) (net.Conn, error)) *forwarder {
	f := &forwarder{listener: l, open: make(map[net.Conn]struct{})}
	f.done.Go(func() {
		for n := 0; ; n++ {
			near, err := l.Accept()
			if err != nil {
				return // closed
			}
			f.done.Go(func() {
				defer f.drop(near)
				if !f.keep(near) {
					return
				}
				far, err := dial(n)
				if err != nil {
					return // who connected sees the end of its connection
				}
				defer f.drop(far)
				if f.keep(far) {
					exchange(near, far)
				}
			})
		}
	})
	return f
}

// exchange copies both ways until both have ended, or either is broken.
func exchange(near, far net.Conn) {
	var other sync.WaitGroup
	other.Go(func() { pour(far, near) })
	pour(near, far)
	other.Wait()
}

// pour copies one way and passes the end on.
func pour(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(*net.TCPConn); ok && err == nil {
		_ = half.CloseWrite()
		return
	}
	_ = to.Close()
	_ = from.Close()
}

// keep notes a connection that close is to end; false when it has been.
func (f *forwarder) keep(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.open[c] = struct{}{}
	}
	return !f.closed
}

func (f *forwarder) drop(c net.Conn) {
	f.mu.Lock()
	delete(f.open, c)
	f.mu.Unlock()
	_ = c.Close()
}

// close ends the listener and every connection, and waits for them.
func (f *forwarder) close() error {
	f.mu.Lock()
	f.closed = true
	err := f.listener.Close()
	for c := range f.open {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.done.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
