package torture

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

func TestTortureSlowCallers(t *testing.T) {
	t.Parallel()
	must(t, slowCallers(t, hub))
}

// What slow callers say: a header that does not end, or a whole one with a body that does not.
const (
	slowHeader = "POST /in/stripe HTTP/1.1\r\nHost: hub\r\nStripe-Signature: t=1,v1=00000000000000000000000000000000000000000000000000000000000000000000"
	slowBody   = "POST /in/stripe HTTP/1.1\r\nHost: hub\r\nContent-Length: 100000\r\n\r\n"
)

// slowCallers has a thousand connections that bring their headers or bodies a byte at a time or read no answer, each replaced when the hub lets it go.
// Good callers are answered as if these were not there, and the hub is rid of those that bring no whole call soon after they have stopped coming, although none of
// them hangs up. Who has called and reads no answer is idle to it, for a minute.
//
// A comparison of two latencies on a machine that does other things too may err, so it is made up to three times, and allows a tenth of a second beside the factor: a hub
// that lets slow callers stand in the way makes good ones wait for seconds.
func slowCallers(t *testing.T, bin string) []string {
	t.Helper()
	const callers = 1000
	b := newBed(t, bin, map[string]load.Rule{"/all": {}}, "")
	child := b.start()
	open := func() int { return files(t, child) }
	measure := func(source string) time.Duration {
		g := b.generator(source)
		g.Rate, g.Duration = 200, time.Duration(rounds(2, 4, 20))*time.Second
		sent := b.post(g)
		b.drained(20*time.Second, "all")
		b.check(sent, "/all", 0)
		if n := sent.Count(load.Accepted); n != len(sent.Posts) {
			b.fault("%d of %d good calls were not taken", len(sent.Posts)-n, len(sent.Posts))
		}
		return sent.Ack.Quantile(0.99)
	}
	_ = measure("warm")
	idle := open()
	var base, slow time.Duration
	held := 0
	for try := range 3 {
		base = measure("b" + strconv.Itoa(try))
		release := b.besiege(callers)
		if !await(t, 20*time.Second, func() bool { return open() > idle+callers*9/10 }) {
			b.fault("of %d slow connections %d are open", callers, open()-idle)
		}
		slow = measure("s" + strconv.Itoa(try))
		held = open() - idle
		quiet := time.Now()
		hangUp := release() // nothing more is said, and nobody hangs up
		if !await(t, 20*time.Second, func() bool { return open() < idle+callers*2/5+20 }) {
			b.fault("%d files are open %s after the last byte, %d were without the slow callers", open(), time.Since(quiet), idle)
		}
		tell(t, "slow callers", callers, "rid of those that bring no call after ms", time.Since(quiet).Milliseconds())
		hangUp()
		if !await(t, 15*time.Second, func() bool { return open() < idle+20 }) {
			b.fault("%d files are open 15 s after all have hung up, %d were before", open(), idle)
		}
		if slow <= 2*base+100*time.Millisecond {
			break
		}
	}
	tell(t, "slow callers", callers, "connections held", held)
	tell(t, "slow callers", callers, "p99 without ms", base.Milliseconds())
	tell(t, "slow callers", callers, "p99 beside them ms", slow.Milliseconds())
	if slow > 2*base+100*time.Millisecond {
		b.fault("good callers wait %s at p99 beside slow ones, %s without", slow, base)
	}
	b.stop(child)
	return b.faults
}

// TestTortureSlowCallersThatTakeNoAnswer has callers that ask and ask and take no answer, until nothing fits between them and the hub any more: it lets go of them by
// itself, and not by way of the time that an idle connection has, for they are not idle.
func TestTortureSlowCallersThatTakeNoAnswer(t *testing.T) {
	t.Parallel()
	must(t, deafCallers(t, hub))
}

func deafCallers(t *testing.T, bin string) []string {
	t.Helper()
	const (
		callers = 20
		patient = 90 * time.Second // three times what an answer has
	)
	b := newBed(t, bin, map[string]load.Rule{"/all": {}}, "")
	child := b.start()
	idle := files(t, child)
	var all sync.WaitGroup
	var stuck atomic.Int64
	for range callers {
		var d net.Dialer
		c, err := d.DialContext(t.Context(), "tcp", b.listen)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).SetReadBuffer(1024)
		defer all.Wait()
		defer c.Close()
		all.Go(func() { // ends with the connection
			asked := []byte(strings.Repeat("GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n", 100))
			for {
				_ = c.SetWriteDeadline(time.Now().Add(time.Second))
				if _, err := c.Write(asked); err != nil {
					stuck.Add(1) // nothing fits any more
					return
				}
			}
		})
	}
	if !await(t, time.Minute, func() bool { return stuck.Load() == callers }) {
		b.fault("only %d of %d callers are stuck", stuck.Load(), callers)
	}
	// Their connections stay open here: it is the hub that has to let go. What a caller hears of that, and when, is the network's affair.
	began := time.Now()
	if !await(t, patient, func() bool { return files(t, child) <= idle+2 }) {
		b.fault("the hub still holds %d of %d callers that have taken no answer for %s", files(t, child)-idle, callers, patient)
	}
	tell(t, "callers that take no answer", callers, "let go of within ms", time.Since(began).Milliseconds())
	b.stop(child)
	return b.faults
}

// files counts what a hub has open.
func files(t *testing.T, child *load.Child) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", int(child.Process)))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// besiege keeps n slow connections open until release is called. From then on they are silent, and hangUp closes them.
func (b *bed) besiege(n int) (release func() (hangUp func())) {
	ctx, cancel := context.WithCancel(b.t.Context())
	var all sync.WaitGroup
	var quiet atomic.Bool
	for i := range n {
		all.Go(func() { // ends with ctx
			for ctx.Err() == nil && !quiet.Load() {
				b.slowly(ctx, i%3, &quiet)
			}
		})
	}
	b.t.Cleanup(func() {
		cancel()
		all.Wait()
	})
	return func() func() {
		quiet.Store(true)
		return func() {
			cancel()
			all.Wait()
		}
	}
}

// slowly is one slow connection until the hub closes it.
func (b *bed) slowly(ctx context.Context, kind int, quiet *atomic.Bool) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", b.listen)
	if err != nil {
		return
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if kind < 2 {
		// Reading tells when the hub closes; these two read, but say little.
		gone := make(chan struct{})
		go func() { // ends with the connection
			_, _ = io.Copy(io.Discard, c)
			close(gone)
		}()
		defer func() {
			_ = c.Close()
			<-gone
		}()
		said := slowHeader
		if kind == 1 {
			if _, err := io.WriteString(c, slowBody); err != nil {
				return
			}
			said = strings.Repeat("x", 100)
		}
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for i := 0; ; {
			if !quiet.Load() && i < len(said) {
				if _, err := c.Write([]byte{said[i]}); err != nil {
					return
				}
				i++
			}
			select {
			case <-tick.C:
			case <-gone:
				return
			case <-ctx.Done():
				return
			}
		}
	}
	_ = c.(*net.TCPConn).SetReadBuffer(1024)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if !quiet.Load() {
			if _, err := io.WriteString(c, strings.Repeat("GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n", 4)); err != nil {
				return
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
