package webhooks_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/tidewire/tidewire/connectors"
	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/webhooks"
)

// chunks hides a reader's length, so that the client sends it chunked.
type chunks struct{ io.Reader }

func gzipped(body []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(body)
	_ = z.Close()
	return b.Bytes()
}

func deflated(body []byte) []byte {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	_, _ = z.Write(body)
	_ = z.Close()
	return b.Bytes()
}

func bareDeflated(body []byte) []byte {
	var b bytes.Buffer
	z, _ := flate.NewWriter(&b, flate.DefaultCompression)
	_, _ = z.Write(body)
	_ = z.Close()
	return b.Bytes()
}

// noise does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestBodiesOverTheLimitAreRefusedWhole(t *testing.T) {
	t.Parallel()
	const limit = 100 << 10
	h := open(t, map[string]connectors.Receiver{"shop": sealed{limits: connectors.Limits{MaxBody: limit, Compressed: true}}})
	fits, over := noise(limit), noise(limit+1)
	zeros := make([]byte, 8<<20)
	for name, tc := range map[string]struct {
		body     io.Reader
		sealed   []byte
		encoding string
		status   int
		result   string
	}{
		"at the limit":                  {bytes.NewReader(fits), fits, "", 200, ""},
		"at the limit, chunked":         {chunks{bytes.NewReader(fits)}, fits, "", 200, ""},
		"one more":                      {bytes.NewReader(over), over, "", 413, "too_large"},
		"one more, chunked":             {chunks{bytes.NewReader(over)}, over, "", 413, "too_large"},
		"one more, sealed at the limit": {chunks{bytes.NewReader(over)}, over[:limit], "", 413, "too_large"},
		"ten more, chunked":             {chunks{bytes.NewReader(noise(10 * limit))}, over, "", 413, "too_large"},
		"expands over it":               {bytes.NewReader(gzipped(append(bytes.Clone(fits[:limit/2]), zeros[:limit/2+1]...))), over, "gzip", 413, "too_large"},
		"gzip bomb":                     {bytes.NewReader(gzipped(zeros)), zeros, "gzip", 413, "too_large"},
		"deflate bomb":                  {bytes.NewReader(deflated(zeros)), zeros, "deflate", 413, "too_large"},
		"small bomb":                    {bytes.NewReader(gzipped(zeros[:limit])), zeros[:limit], "gzip", 413, "too_large"},
		"gzip in gzip":                  {bytes.NewReader(gzipped(gzipped([]byte("x")))), []byte("x"), "gzip, gzip", 415, "unsupported"},
		"not gzip":                      {strings.NewReader("plain text"), []byte("plain text"), "gzip", 400, "invalid"},
		"gzip cut short":                {bytes.NewReader(gzipped(fits)[:1000]), fits, "gzip", 400, "invalid"},
		"gzip with a tail":              {bytes.NewReader(append(gzipped([]byte("x")), "tail"...)), []byte("x"), "gzip", 400, "invalid"},
		"deflate with a tail":           {bytes.NewReader(append(deflated([]byte("x")), "tail"...)), []byte("x"), "deflate", 400, "invalid"},
		"zip":                           {bytes.NewReader([]byte("PK\x03\x04")), []byte("x"), "zip", 415, "unsupported"},
	} {
		req := h.request(http.MethodPost, "/in/shop", tc.body, "X-Seal", seal(tc.sealed), "X-Id", strings.ReplaceAll(name, " ", "-"))
		if tc.encoding != "" {
			req.Header.Set("Content-Encoding", tc.encoding)
		}
		before, kept := h.received("shop", tc.result), len(h.intake.kept())
		a := h.do(req)
		if a.status != tc.status {
			t.Errorf("%s: status %d, want %d", name, a.status, tc.status)
			continue
		}
		if a.status == 200 {
			continue
		}
		isProblem(t, a)
		if got := h.received("shop", tc.result); got != before+1 {
			t.Errorf("%s: %s counted %v times", name, tc.result, got-before)
		}
		if got := len(h.intake.kept()); got != kept {
			t.Errorf("%s: it was kept", name)
		}
	}
}

func TestACallThatLiesAboutItsLength(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": sealed{limits: connectors.Limits{MaxBody: 1000}}})
	head := "POST /in/shop HTTP/1.1\r\nHost: hub\r\nX-Seal: " + seal([]byte("12345")) + "\r\n"
	for name, tc := range map[string]struct {
		request string
		want    []int
		kept    int
	}{
		"says more than it sends":   {head + "Content-Length: 10\r\n\r\n12345", []int{400}, 0},
		"says too much":             {head + "Content-Length: 1001\r\n\r\n12345", []int{413}, 0},
		"says far too much":         {head + "Content-Length: 9223372036854775807\r\n\r\n12345", []int{413}, 0},
		"says more than can be":     {head + "Content-Length: 9223372036854775808\r\n\r\n12345", []int{400}, 0},
		"negative":                  {head + "Content-Length: -5\r\n\r\n12345", []int{400}, 0},
		"a word":                    {head + "Content-Length: five\r\n\r\n12345", []int{400}, 0},
		"a sign":                    {head + "Content-Length: +5\r\n\r\n12345", []int{400}, 0},
		"two that differ":           {head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345", []int{400}, 0},
		"chunks that do not end":    {head + "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", []int{400}, 0},
		"a chunk cut short":         {head + "Transfer-Encoding: chunked\r\n\r\n9\r\n12345", []int{400}, 0},
		"a chunk over the limit":    {head + "Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + strings.Repeat("x", 1001) + "\r\n0\r\n\r\n", []int{413}, 0},
		"an endless chunk":          {head + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n12345", []int{400}, 0},
		"honest, for comparison":    {head + "Connection: close\r\nContent-Length: 5\r\n\r\n12345", []int{200}, 1},
		"honest chunks, the same":   {head + "Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n", []int{200}, 1},
		"honest chunks in HTTP/1.0": {strings.Replace(head, "1.1", "1.0", 1) + "Content-Length: 5\r\n\r\n12345", []int{200}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(h.intake.kept())
			answers := h.raw(strings.Replace(tc.request, "X-Seal", "X-Id: "+strings.ReplaceAll(name, " ", "-")+"\r\nX-Seal", 1))
			got := []int{}
			for _, a := range answers {
				got = append(got, a.status)
			}
			if fmt.Sprint(got) != fmt.Sprint(tc.want) {
				t.Errorf("answers %v, want %v", got, tc.want)
			}
			if got := len(h.intake.kept()) - before; got != tc.kept {
				t.Errorf("%d events kept, want %d", got, tc.kept)
			}
		})
	}
}

// TestNoSecondCallIsSmuggled sends calls whose end two readers may see in different places, each with a second call in
// what would be left over. The second is never handled.
func TestNoSecondCallIsSmuggled(t *testing.T) {
	t.Parallel()
	body := []byte("12345")
	second := "POST /in/shop HTTP/1.1\r\nHost: hub\r\nX-Id: smuggled\r\nX-Seal: " + seal([]byte("boo")) + "\r\nContent-Length: 3\r\n\r\nboo"
	head := "POST /in/shop HTTP/1.1\r\nHost: hub\r\nX-Id: first\r\nX-Seal: " + seal(body) + "\r\n"
	chunked := "5\r\n12345\r\n0\r\n\r\n"
	for name, tc := range map[string]struct {
		request string
		first   []int // what the first call may be answered with
	}{
		"TE and CL":                   {head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + second, []int{400}},
		"CL and TE":                   {head + "Transfer-Encoding: chunked\r\nContent-Length: 15\r\n\r\n" + chunked + second, []int{400}},
		"CL in another case and TE":   {head + "transfer-encoding: CHUNKED\r\ncontent-length: 15\r\n\r\n" + chunked + second, []int{400}},
		"TE and CL after a first one": {strings.Replace(second, "smuggled", "before", 1) + head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + second, []int{200}},
		"TE alone":                    {head + "Transfer-Encoding: chunked\r\n\r\n" + chunked + second, []int{200}},
		"TE twice":                    {head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked + second, []int{501, 400}},
		"TE chunked, identity":        {head + "Transfer-Encoding: chunked, identity\r\n\r\n" + chunked + second, []int{501, 400}},
		"TE of an odd name":           {head + "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\n12345" + second, []int{501, 400}},
		"TE with a space before it":   {head + "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n12345" + second, []int{400}},
		"TE with a vertical tab":      {head + "Transfer-Encoding:\x0bchunked\r\nContent-Length: 5\r\n\r\n12345" + second, []int{400, 501}},
		"TE folded":                   {head + "Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n" + chunked + second, []int{400}},
		"a folded header":             {head + "X-Odd: a\r\n b\r\nContent-Length: 5\r\n\r\n12345" + second, []int{400}},
		"a header folded by a tab":    {head + "Content-Length: 5\r\nX-Odd:\r\n\tb\r\n\r\n12345" + second, []int{400}},
		"a body with indents":         {head[:len(head)-2-64] + seal([]byte("{\r\n 1}")) + "\r\nContent-Length: 6\r\n\r\n{\r\n 1}", []int{200}},
		"bare LFs, body with indents": {strings.ReplaceAll(head[:len(head)-2-64]+seal([]byte("{\n 1}"))+"\r\nContent-Length: 5\r\n\r\n", "\r", "") + "{\n 1}", []int{200}},
		"TE in HTTP/1.0":              {strings.Replace(head, "1.1", "1.0\r\nConnection: keep-alive", 1) + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n12345" + second, []int{400}},
		"keep-alive in HTTP/1.0":      {strings.Replace(head, "1.1", "1.0\r\nConnection: keep-alive", 1) + "Content-Length: 5\r\n\r\n12345" + second, []int{200}},
		"two lengths":                 {head + "Content-Length: 5\r\nContent-Length: 8\r\n\r\n12345" + second, []int{400}},
		"two lengths in one line":     {head + "Content-Length: 5, 8\r\n\r\n12345" + second, []int{400}},
		"bare LF after a chunk size":  {head + "Transfer-Encoding: chunked\r\n\r\n5\n12345\r\n0\r\n\r\n" + second, []int{400}},
		"bare LF in an extension":     {head + "Transfer-Encoding: chunked\r\n\r\n5;a\nb\r\n12345\r\n0\r\n\r\n" + second, []int{400}},
		"chunk longer than it says":   {head + "Transfer-Encoding: chunked\r\n\r\n4\r\n12345\r\n0\r\n\r\n" + second, []int{400}},
		"chunk size with 0x":          {head + "Transfer-Encoding: chunked\r\n\r\n0x5\r\n12345\r\n0\r\n\r\n" + second, []int{400}},
		"chunk size negative":         {head + "Transfer-Encoding: chunked\r\n\r\n-5\r\n12345\r\n0\r\n\r\n" + second, []int{400}},
		"CR in a header's value":      {head + "X-Odd: a\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n12345" + second, []int{400}},
		"NUL in a header's value":     {head + "X-Odd: a\x00b\r\nContent-Length: 5\r\n\r\n12345" + second, []int{400}},
		"no host":                     {strings.Replace(head, "Host: hub\r\n", "", 1) + "Content-Length: 5\r\n\r\n12345" + second, []int{400}},
		"two hosts":                   {head + "Host: other\r\nContent-Length: 5\r\n\r\n12345" + second, []int{400}},
		"refused for its size":        {head + "Content-Length: 99999999\r\n\r\n" + second, []int{413}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, map[string]connectors.Receiver{"shop": sealed{}})
			answers := h.raw(tc.request)
			if len(answers) == 0 {
				t.Fatal("no answer")
			}
			ok := false
			for _, status := range tc.first {
				ok = ok || answers[0].status == status
			}
			if !ok {
				t.Errorf("first answer %d, want one of %v", answers[0].status, tc.first)
			}
			for _, e := range h.intake.kept() {
				if e.ID == "smuggled" {
					t.Error("the second call was handled")
				}
			}
		})
	}
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": sealed{}})
	answers := h.raw("POST /in/shop HTTP/1.1\r\nHost: hub\r\nX-Long: " + strings.Repeat("x", 64<<10) + "\r\nContent-Length: 0\r\n\r\n")
	if len(answers) != 1 || answers[0].status != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%+v", answers)
	}
}

func TestAnAnswerCannotBeSplit(t *testing.T) {
	t.Parallel()
	h := open(t, map[string]connectors.Receiver{"shop": polite{}})
	answers := h.raw("GET /in/shop?challenge=a%0d%0aX-Evil:%201%0d%0a%0d%0aHTTP/1.1%20200%20OK HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n")
	if len(answers) != 1 || answers[0].header.Get("X-Evil") != "" {
		t.Errorf("%+v", answers)
	}
}

// gate is an intake that tells how many calls wait in it, and lets them go together.
type gate struct {
	entered chan struct{}
	open    chan struct{}
}

func (g gate) Accept(ctx context.Context, _ ...event.Event) error {
	g.entered <- struct{}{}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestLargeBodiesWaitForMemoryAndSmallOnesDoNot(t *testing.T) {
	t.Parallel()
	const one = 1 << 20
	g := gate{entered: make(chan struct{}, 100), open: make(chan struct{})}
	h := open(t, map[string]connectors.Receiver{"shop": sealed{}}, func(c *webhooks.Config, _ *webhooks.ListenerConfig) {
		c.BodyMemory = 2 * one
		c.Intake = g
	})
	large := noise(one)
	var group sync.WaitGroup
	statuses := make(chan int, 4)
	for range cap(statuses) {
		group.Go(func() { statuses <- h.post("/in/shop", large).status })
	}
	// Two have their seats and wait in the intake; the other two wait for a seat until they are sent away. A small call passes them.
	<-g.entered
	<-g.entered
	small := make(chan int, 1)
	group.Go(func() { small <- h.post("/in/shop", []byte("small")).status })
	<-g.entered
	for range 2 {
		if got := <-statuses; got != 503 {
			t.Errorf("without a seat: %d", got)
		}
	}
	close(g.open)
	group.Wait()
	if got := <-small; got != 200 {
		t.Errorf("small: %d", got)
	}
	for range 2 {
		if got := <-statuses; got != 200 {
			t.Errorf("with a seat: %d", got)
		}
	}
	if got := h.post("/in/shop", large).status; got != 200 {
		t.Errorf("a seat that was given back: %d", got)
	}
}

func TestAHundredOversizedCallsCostLittleMemory(t *testing.T) {
	h := open(t, map[string]connectors.Receiver{"shop": sealed{limits: connectors.Limits{Compressed: true}}})
	over := noise(1<<20 + 1)
	bomb := gzipped(make([]byte, 8<<20))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var group sync.WaitGroup
	for i := range 100 {
		group.Go(func() {
			req := h.request(http.MethodPost, "/in/shop", chunks{bytes.NewReader(over)}, "X-Seal", "x")
			if i%2 == 0 {
				req = h.request(http.MethodPost, "/in/shop", bytes.NewReader(bomb), "X-Seal", "x", "Content-Encoding", "gzip")
			}
			if a := h.do(req); a.status != 413 && a.status != 503 {
				t.Errorf("status %d", a.status)
			}
		})
	}
	group.Wait()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 96<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if n := len(h.intake.kept()); n != 0 {
		t.Errorf("%d kept", n)
	}
}

// A bomb is counted, not unpacked. Not parallel: it counts what the process allocates.
func TestABombCostsNoMemory(t *testing.T) {
	h := open(t, map[string]connectors.Receiver{"shop": sealed{limits: connectors.Limits{Compressed: true, MaxBody: 16 << 20}}})
	bomb := gzipped(make([]byte, 64<<20)) // 64 KiB, so that the ratio allows 6 MiB
	send := func() {
		if a := h.do(h.request(http.MethodPost, "/in/shop", bytes.NewReader(bomb), "X-Seal", "x", "Content-Encoding", "gzip")); a.status != 413 {
			t.Errorf("status %d", a.status)
		}
	}
	send() // what is made once
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	send()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("allocated %d KiB", n>>10)
	}
}
