package torture

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// hubGrew begins the violations that are about memory.
const hubGrew = "the hub grew by"

// patiently runs a scenario up to three times, each with a hub of its own, as long as nothing but its memory is at fault: whether the collector has
// just run is a matter of chance. What a hub holds without bounds shows every time.
func patiently(scenario func() []string) (faults []string) {
	for range 3 {
		faults = scenario()
		if slices.ContainsFunc(faults, func(f string) bool { return !strings.Contains(f, hubGrew) }) || len(faults) == 0 {
			break
		}
	}
	return faults
}

const sizeRoutes = "routes:\n  all: {from: any, to: all}\n  good: {from: stripe, to: good}\n"

// packed is a connection that takes compressed calls.
var packed = strings.Replace(anyone, "max_body: 1MiB", "max_body: 1MiB, compressed: true", 1)

// zeros are n bytes of nothing in an encoding: a thousand to one.
func zeros(encoding string, n int) []byte {
	var b bytes.Buffer
	var z io.WriteCloser = gzip.NewWriter(&b)
	if encoding == "deflate" {
		z = zlib.NewWriter(&b)
	}
	_, _ = z.Write(make([]byte, n))
	_ = z.Close()
	return b.Bytes()
}

func squeezed(body []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(body)
	_ = z.Close()
	return b.Bytes()
}

// heldBack is how many bytes a caller keeps until the others are as far: with the end of a chunked body comes the byte that is over the limit.
const heldBack = 16

// raw sends a request as it is, its end when the others are as far or some time has passed, and returns the status of its answer; 0 for none.
func (b *bed) raw(head string, body []byte, others *together) int {
	c, err := net.DialTimeout("tcp", b.listen, 10*time.Second)
	if err != nil {
		return 0
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_ = c.(*net.TCPConn).SetWriteBuffer(16 << 10) // what is written has been read, not only sent
	var sending sync.WaitGroup
	sending.Go(func() { // ends with the deadline, or when the connection is closed
		_, _ = io.WriteString(c, head)
		_, _ = c.Write(body[:len(body)-heldBack])
		others.meet(b.t.Context())
		_, _ = c.Write(body[len(body)-heldBack:])
		_ = c.(*net.TCPConn).CloseWrite()
	})
	defer sending.Wait()
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0
	}
	_ = answer.Body.Close()
	return answer.StatusCode
}

// together is where callers wait for one another.
type together struct {
	missing atomic.Int64
	all     chan struct{}
}

func newTogether(n int) *together {
	t := &together{all: make(chan struct{})}
	t.missing.Store(int64(n))
	return t
}

// meet waits until everybody is there, or three seconds for those whom the hub keeps waiting.
func (t *together) meet(ctx context.Context) {
	if t.missing.Add(-1) == 0 {
		close(t.all)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	select {
	case <-t.all:
	case <-ctx.Done():
	}
}

// bodyCall is a request on the wire; {id} in its head stands for the event's.
type bodyCall struct {
	head string
	body []byte
}

// tooLarge are calls that bring, or will have brought once expanded, one byte more than the connection takes.
func tooLarge() map[string]bodyCall {
	const limit = 1 << 20
	over := make([]byte, limit+1)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range over {
		over[i] = byte(r.Uint32())
	}
	half := append(bytes.Clone(over[:limit/2]), make([]byte, limit/2+1)...)
	packedOver := squeezed(half) // over the limit only when it is expanded, and no bomb
	call := "POST /in/any HTTP/1.1\r\nHost: hub\r\nX-Token: " + anyToken + "\r\nX-Id: {id}\r\n"
	length := func(n int) string { return "Content-Length: " + strconv.Itoa(n) + "\r\n\r\n" }
	var chunked bytes.Buffer
	for rest := over; len(rest) > 0; {
		n := min(len(rest), 64<<10)
		_, _ = fmt.Fprintf(&chunked, "%x\r\n%s\r\n", n, rest[:n])
		rest = rest[n:]
	}
	chunked.WriteString("0\r\n\r\n")
	return map[string]bodyCall{
		"length":             {call + length(len(over)), over},
		"chunked":            {call + "Transfer-Encoding: chunked\r\n\r\n", chunked.Bytes()},
		"lying: says less":   {call + length(limit), over}, // what is beyond is another request, and no good one
		"lying: says more":   {call + length(limit+1), over[:1000]},
		"lying: says all":    {call + length(1<<62), over[:1000]},
		"gzip":               {call + "Content-Encoding: gzip\r\n" + length(len(packedOver)), packedOver},
		"gzip chunked":       {call + "Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", chunk(packedOver)},
		"gzip, says it lies": {call + "Content-Encoding: gzip\r\n" + length(len(packedOver)+1), packedOver},
	}
}

func chunk(b []byte) []byte {
	return fmt.Appendf(nil, "%x\r\n%s\r\n0\r\n\r\n", len(b), b)
}

func TestTortureOversizedBodies(t *testing.T) {
	t.Parallel()
	must(t, patiently(func() []string { return oversizedBodies(t, hub) }))
}

// oversizedBodies sends a hundred calls of each kind at once. None is stored, cut short or not; the hub hardly grows; and who sends little is served meanwhile.
func oversizedBodies(t *testing.T, bin string) []string {
	t.Helper()
	b := newBed(t, bin, map[string]load.Rule{"/all": {}, "/good": {}}, connections("all", "good")+packed+sizeRoutes)
	child := b.start()
	b.generate("w", 5000) // until the heap has the size of a hub at work
	stored, kinds := 0, 0
	atOnce := func(name string, request bodyCall) (grown int64) {
		kinds++
		before := b.resetPeak(child)
		g := b.generator("n" + strconv.Itoa(kinds))
		g.Connections, g.Rate = 4, 100
		stop := b.background(g)
		var all sync.WaitGroup
		statuses := make([]int, 100)
		if name == "lying: says less" {
			statuses = statuses[:10] // these are taken
		}
		others := newTogether(len(statuses))
		for i := range statuses {
			all.Go(func() {
				statuses[i] = b.raw(strings.Replace(request.head, "{id}", fmt.Sprintf("%d-%d", kinds, i), 1), request.body, others)
			})
		}
		all.Wait()
		sent := stop()
		b.drained(20*time.Second, "good")
		b.check(sent, "/good", 0)
		counts := map[int]int{}
		for _, s := range statuses {
			counts[s]++
		}
		// 503: no memory for one more large body just now. 400: it ended before it should have.
		for status, n := range counts {
			ok := status == 413 || status == 503
			switch name {
			case "lying: says less": // the limit itself is within the limit
				ok = status == 200 || status == 503
				if status == 200 {
					stored += n
				}
			case "lying: says more", "gzip, says it lies":
				ok = status == 413 || status == 400 || status == 503
			}
			if !ok {
				b.fault("%s: %d calls are answered %d", name, n, status)
			}
		}
		return b.peak(child) - before
	}
	for name, request := range tooLarge() {
		grown := atOnce(name, request)
		tell(t, "100 oversized bodies at once: "+name, 100, "memory grown MiB", grown>>20)
		if grown > 64<<20 {
			b.fault("%s: %s %d MiB", name, hubGrew, grown>>20)
		}
	}
	b.drained(20*time.Second, "all", "good")
	b.stop(child)
	k := b.open()
	if k.records["events.any"] != int64(stored) {
		b.fault("%d bodies are stored, %d were taken", k.records["events.any"], stored)
	}
	tell(t, "100 oversized bodies at once", len(tooLarge()), "stored that should not be", k.records["events.any"]-int64(stored))
	return b.faults
}

// generate posts events to the stripe connection and waits until its route has nothing to do.
func (b *bed) generate(source string, events int) {
	b.t.Helper()
	g := b.generator(source)
	g.Events = events
	sent := b.post(g)
	b.drained(30*time.Second, "good")
	b.check(sent, "/good", 0)
}

func TestTortureBombs(t *testing.T) {
	t.Parallel()
	must(t, patiently(func() []string { return bombs(t, hub) }))
}

// bombs comes at the hub with bodies that are a thousand times larger than they look: from callers, in both encodings, packed twice, under names of
// encodings that the hub does not know; and from targets, in their answers. All stop at the cap, and the hub hardly grows.
func bombs(t *testing.T, bin string) []string {
	t.Helper()
	const expanded = 128 << 20
	answer := zeros("gzip", expanded)
	twice, deflated := squeezed(answer), zeros("deflate", expanded)
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		body, encoding := answer, "gzip"
		switch r.URL.Path {
		case "/deflate":
			body, encoding = deflated, "deflate"
		case "/nested":
			body, encoding = twice, "gzip, gzip"
		case "/br":
			encoding = "br"
		}
		w.Header().Set("Content-Encoding", encoding)
		_, _ = w.Write(body)
	}))
	defer target.Close()
	y := connections("all", "good") + packed
	routes := sizeRoutes
	for _, name := range []string{"gzip", "deflate", "nested", "br"} {
		y += "  " + name + ": {connector: http, url: \"" + target.URL + "/" + name + "\", allow_private: true}\n"
		routes += "  " + name + ": {from: stripe, to: " + name + ", concurrency: 4, timeout: 5s}\n"
	}
	b := newBed(t, bin, map[string]load.Rule{"/all": {}, "/good": {}}, y+routes)
	child := b.start()
	b.generate("w", 200)
	b.drained(30*time.Second, "good", "gzip", "deflate", "nested", "br")
	largest, name := int64(0), ""
	measure := func(what string, do func()) {
		before := b.resetPeak(child)
		do()
		grown := b.peak(child) - before
		if grown > 16<<20 {
			b.fault("%s: %s %d MiB", what, hubGrew, grown>>20)
		}
		if grown > largest {
			largest, name = grown, what
		}
	}
	calls := 0
	for what, c := range map[string]struct {
		encoding string
		body     []byte
		status   int
	}{
		"gzip":                     {"gzip", answer, 413},
		"deflate":                  {"deflate", deflated, 413},
		"small gzip":               {"gzip", zeros("gzip", 1<<20), 413},
		"gzip in gzip, said":       {"gzip, gzip", twice, 415},
		"gzip in gzip, in silence": {"gzip", twice, 413},
		"br":                       {"br", answer, 415},
		"zip":                      {"zip", answer, 415},
		"compress":                 {"compress", answer, 415},
		"zstd":                     {"zstd", answer, 415},
	} {
		measure(what, func() {
			for range 5 {
				calls++
				if code, _ := b.call("/in/any", c.body, map[string]string{"X-Token": anyToken, "X-Id": fmt.Sprint(calls), "Content-Encoding": c.encoding}); code != c.status {
					b.fault("%s: answered %d, want %d", what, code, c.status)
				}
			}
		})
	}
	n := 0
	measure("answers", func() {
		n++
		b.generate("a"+strconv.Itoa(n), 100)
		b.drained(30*time.Second, "good", "gzip", "deflate", "nested", "br")
	})
	tell(t, "bombs", calls, "memory grown MiB ("+name+")", largest>>20)
	b.stop(child)
	k := b.open()
	if k.records["events.any"] != 0 {
		b.fault("%d bombs are stored", k.records["events.any"])
	}
	for _, route := range []string{"gzip", "deflate", "nested", "br"} {
		if k.states[route]["delivered"] != k.records["events.stripe"] {
			b.fault("route %s: %v of %d", route, k.states[route], k.records["events.stripe"])
		}
	}
	return b.faults
}
