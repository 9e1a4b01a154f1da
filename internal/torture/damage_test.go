package torture

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// kept is the data_dir of a stopped hub that some events have left and others have not.
type kept struct {
	dir       string
	delivered *load.Sent
	waiting   *load.Sent
}

const (
	withoutRoute = "routes: {}\n"
	withRoute    = "routes:\n  all: {from: stripe, to: all, start: beginning}\n"
)

// keep makes one. A hub that was killed leaves its write-ahead log behind, one that was stopped has copied it into the file.
func keep(t *testing.T, bin string, killed bool) kept {
	t.Helper()
	return keepSome(t, bin, killed, 40, 60)
}

// keepSome makes one with so many events that were delivered, and so many that wait.
func keepSome(t *testing.T, bin string, killed bool, delivered, waiting int) kept {
	t.Helper()
	b := newBed(t, bin, map[string]load.Rule{"/all": {}}, connections("all")+withRoute)
	child := b.start()
	g := b.generator("d")
	g.Events, g.Connections = delivered, 1
	k := kept{dir: b.data, delivered: b.post(g)}
	b.drained(10*time.Second, "all")
	b.stop(child)
	b.configure(connections("all") + withoutRoute)
	child = b.start()
	g = b.generator("u")
	g.Events, g.Connections = waiting, 1
	k.waiting = b.post(g)
	if killed {
		child.Kill()
	} else {
		b.stop(child)
	}
	must(t, b.faults)
	return k
}

// revive runs a hub on a copy of the kept folder after damage was done to it, and returns what came of the waiting events and what the hub
// said. A hub may refuse to start; then it must say that the file is damaged.
func (k kept) revive(t *testing.T, bin string, damage func(dir string) error) (v load.Verdict, again int, said string, faults []string) {
	t.Helper()
	b := newBed(t, bin, map[string]load.Rule{"/all": {}}, connections("all")+withRoute)
	if err := errors.Join(os.CopyFS(b.data, os.DirFS(k.dir)), damage(b.data)); err != nil {
		t.Fatal(err)
	}
	child, err := load.Start(t.Context(), b.command())
	if err != nil {
		said = b.everything()
		if !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(said, "damaged") {
			b.fault("a hub with a damaged file does not start and does not say why: %v", err)
		}
		return v, 0, said, b.faults
	}
	defer child.Kill()
	if child.Ready > 5*time.Second { // a fraction of a second; more is a hang
		b.fault("it took %s to be ready", child.Ready)
	}
	// What a damaged record holds up is seen by what still comes.
	last, quiet := int64(-1), 0
	for quiet < 12 {
		pause(t, 50*time.Millisecond)
		if n := b.sink.Seen("/all"); n != last {
			last, quiet = n, 0
		} else if quiet++; last >= int64(len(k.waiting.Posts)) {
			break
		}
	}
	v = load.Check(k.waiting, b.sink.Receipts("/all"), load.Expect{})
	d := load.Check(k.delivered, b.sink.Receipts("/all"), load.Expect{})
	if v.Altered+d.Altered+v.Strangers+d.Strangers > 0 {
		b.fault("altered bodies were delivered: %s; %s", v, d)
	}
	if v.DuplicateIDs+v.Inversions > 0 {
		b.fault("waiting events: %s", v)
	}
	_ = child.Stop(10 * time.Second)
	return v, d.Delivered, b.everything(), b.faults
}

// flip turns one bit of a file.
func flip(file string, at int64, bit uint) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var one [1]byte
	if _, err := f.ReadAt(one[:], at); err != nil {
		return err
	}
	one[0] ^= 1 << bit
	_, err = f.WriteAt(one[:], at)
	return err
}

func TestTortureAlteredBodies(t *testing.T) {
	t.Parallel()
	must(t, alteredBodies(t, hub, rounds(2, 8, 60)))
}

// alteredBodies turns one bit each within bodies as they lie in the file: such an event is reported and not delivered, all others are.
func alteredBodies(t *testing.T, bin string, n int) []string {
	t.Helper()
	r := choices(t)
	k := keep(t, hub, false)
	data, err := os.ReadFile(filepath.Join(k.dir, "tidewire.db"))
	if err != nil {
		t.Fatal(err)
	}
	var places []int64 // just behind the opening of the bodies that wait
	for from := 0; ; {
		i := bytes.Index(data[from:], []byte(`"evt_u_`))
		if i < 0 {
			break
		}
		from += i + 1
		places = append(places, int64(from+60))
	}
	if len(places) < len(k.waiting.Posts) {
		t.Fatalf("only %d bodies found in the file", len(places))
	}
	var faults []string
	for range n {
		at := places[r.IntN(len(places))] + r.Int64N(100)
		v, _, said, found := k.revive(t, bin, func(dir string) error { return flip(filepath.Join(dir, "tidewire.db"), at, uint(r.IntN(8))) })
		faults = append(faults, found...)
		if v.Lost != 1 || !strings.Contains(said, "damaged") {
			faults = append(faults, fmt.Sprintf("a bit at %d: %s; damage reported: %v", at, v, strings.Contains(said, "damaged")))
		}
	}
	tell(t, "a bit in a body", n, "violations", len(faults))
	return faults
}

// TestTortureDamagedNames turns a bit in each place where the file holds a topic's name: the hub starts over with what it can tell, or refuses.
func TestTortureDamagedNames(t *testing.T) {
	t.Parallel()
	k := keep(t, hub, false)
	data, err := os.ReadFile(filepath.Join(k.dir, "tidewire.db"))
	if err != nil {
		t.Fatal(err)
	}
	name := []byte("events.stripe")
	for from, n := bytes.Index(data, name), 0; from >= 0 && n < 8; n++ {
		v, _, said, faults := k.revive(t, hub, func(dir string) error { return flip(filepath.Join(dir, "tidewire.db"), int64(from+10), 6) })
		for _, f := range faults {
			t.Errorf("the name at %d: %s", from, f)
		}
		if v.Lost > 0 && !strings.Contains(said, "damage") {
			t.Errorf("the name at %d: %s, and nothing says so: %s", from, v, said)
		}
		next := bytes.Index(data[from+1:], name)
		if next < 0 {
			break
		}
		from += 1 + next
	}
}

// TestTortureBitFlips turns single bits anywhere in the file and in the write-ahead log of a hub that was killed.
func TestTortureBitFlips(t *testing.T) {
	t.Parallel()
	r := choices(t)
	runs := rounds(4, 24, 200)
	refused, reported, lost, silent := 0, 0, 0, 0
	for _, killed := range []bool{false, true} {
		k := keep(t, hub, killed)
		file := "tidewire.db"
		if killed {
			file += "-wal"
		}
		info, err := os.Stat(filepath.Join(k.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for range runs / 2 {
			at, bit := r.Int64N(info.Size()), uint(r.IntN(8))
			v, _, said, faults := k.revive(t, hub, func(dir string) error { return flip(filepath.Join(dir, file), at, bit) })
			for _, f := range faults {
				t.Errorf("%s, bit %d at %d: %s", file, bit, at, f)
			}
			damaged := strings.Contains(said, "damage")
			switch {
			case v.Sent == 0:
				refused++
			case v.Lost > 0 && !damaged:
				silent++
				t.Errorf("%s, bit %d at %d: %d events are gone and nothing says so: %s", file, bit, at, v.Lost, said)
			}
			lost += v.Lost
			if damaged {
				reported++
			}
		}
	}
	tell(t, "bit flips", runs, "starts refused with a reason", refused)
	tell(t, "bit flips", runs, "reported", reported)
	tell(t, "bit flips", runs, "events lost to damage", lost)
	tell(t, "bit flips", runs, "lost without a report", silent)
}

// TestTortureTruncation cuts the files short within their last records. A write-ahead log that ends early is what a crash leaves, so nothing can
// tell: what is before the cut is served, in order, and nothing else. A file that is too short is damaged, and said to be.
func TestTortureTruncation(t *testing.T) {
	t.Parallel()
	r := choices(t)
	runs := rounds(3, 12, 300)
	for _, killed := range []bool{false, true} {
		k := keep(t, hub, killed)
		file := "tidewire.db"
		if killed {
			file += "-wal"
		}
		info, err := os.Stat(filepath.Join(k.dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for range runs / 2 {
			cut := 1 + r.Int64N(3*8*4096) // about three records with what is written for each
			v, _, said, faults := k.revive(t, hub, func(dir string) error { return os.Truncate(filepath.Join(dir, file), max(0, info.Size()-cut)) })
			for _, f := range faults {
				t.Errorf("%s cut by %d: %s", file, cut, f)
			}
			switch {
			case v.Sent == 0: // refused, with a reason
			case killed && v.Delivered+v.Lost != len(k.waiting.Posts), !killed && v.Lost > 0 && !strings.Contains(said, "damage"):
				t.Errorf("%s cut by %d: %s; said: %s", file, cut, v, said)
			}
		}
	}
	tell(t, "truncation", runs, "altered bodies delivered", 0)
}
