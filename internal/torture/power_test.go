package torture

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	zsqlite "zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"

	"github.com/tidewire/tidewire/internal/load"
)

// diskCall is something that a hub did to one of its files.
type diskCall struct {
	began, ended int64 // nanoseconds since 1970; ended is after the call was over, and before the hub went on
	file         string
	sync         bool   // all that was written before is on disk
	data         []byte // written at offset; nil: the file was cut to that size
	offset       int64
}

// disk is everything that a hub did to the files of its database, as strace saw it.
type disk []diskCall

// traced makes a command one that writes down what it does to the files of a database.
func traced(c load.Command, trace, database string) load.Command {
	c.Args = append([]string{
		"strace", "-D", "-f", "-qq", "-ttt", "-T", "-y", "-xx", "-s", "70000", "--seccomp-bpf", "-o", trace, "-P", database, "-P", database + "-wal",
		"-e", "signal=none", "-e", "trace=pwrite64,write,writev,pwritev,fsync,fdatasync,ftruncate",
	}, c.Args...)
	return c
}

// readDisk reads a trace: PID TIME CALL(FD<FILE>, …) = RESULT <SECONDS>, with what is not plain text in hexadecimal. A call during which another one is told of is in
// two lines.
func readDisk(t *testing.T, trace string) (all disk) {
	t.Helper()
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewReaderSize(f, 1<<20)
	begun := make(map[string]string) // by PID
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break // the last line may be half written
		}
		line = strings.TrimSuffix(line, "\n")
		pid, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimLeft(rest, " ")
		if head, cut := strings.CutSuffix(rest, " <unfinished ...>"); cut {
			begun[pid] = head
			continue
		}
		if _, tail, resumed := strings.Cut(rest, " resumed>"); resumed && begun[pid] != "" {
			rest = begun[pid] + tail
			delete(begun, pid)
		}
		if !strings.Contains(rest, "(") {
			continue
		}
		c, err := readCall(rest)
		if err != nil {
			t.Fatalf("trace: %.300s: %v", rest, err)
		}
		all = append(all, c)
	}
	return all
}

func readCall(line string) (c diskCall, err error) {
	at, call, _ := strings.Cut(line, " ")
	seconds, err := strconv.ParseFloat(at, 64)
	if err != nil {
		return c, err
	}
	name, call, _ := strings.Cut(call, "(")
	_, call, _ = strings.Cut(call, "<")
	path, call, ok := strings.Cut(call, ">")
	equals := strings.LastIndex(call, " = ")
	if !ok || equals < 0 {
		return c, fmt.Errorf("it is not understood")
	}
	file, err := unhex(path)
	if err != nil {
		return c, err
	}
	result, took, _ := strings.Cut(call[equals+3:], " ")
	c.file, c.began, c.ended = filepath.Base(string(file)), int64(seconds*1e9), math.MaxInt64
	over := result != "?" // else the hub was killed in it
	if over {
		lasted, err := strconv.ParseFloat(strings.Trim(took, "<>"), 64)
		if err != nil {
			return c, err
		}
		c.ended = c.began + int64(lasted*1e9) + int64(2*time.Microsecond) // both are rounded
	}
	arguments := strings.TrimSuffix(strings.TrimRight(call[:equals], " "), ")")
	switch name {
	case "fsync", "fdatasync":
		if over && result != "0" {
			return c, fmt.Errorf("fsync failed")
		}
		c.sync = true
	case "ftruncate":
		c.offset, err = strconv.ParseInt(strings.Trim(arguments, ", "), 10, 64)
	case "pwrite64":
		fields := strings.Split(arguments, ", ") // "", DATA, LENGTH, OFFSET
		if len(fields) != 4 || over && fields[2] != result {
			return c, fmt.Errorf("a write that is not whole")
		}
		if c.data, err = unhex(strings.Trim(fields[1], `"`)); err == nil && strconv.Itoa(len(c.data)) != fields[2] {
			err = fmt.Errorf("%d bytes are told of", len(c.data))
		}
		if err == nil {
			c.offset, err = strconv.ParseInt(fields[3], 10, 64)
		}
	default:
		err = fmt.Errorf("files are written to in a way that is not looked at")
	}
	return c, err
}

// unhex reads \x41\x42.
func unhex(s string) ([]byte, error) { return hex.DecodeString(strings.ReplaceAll(s, `\x`, "")) }

// What may become of what was written and not synced when the power fails.
const (
	allGone = iota
	someGone
	lastTorn
	fates
)

// after is what is on the disk after the power failed at a time: everything that had been written before a call of fsync that had ended, and of the rest what fate
// leaves of it, in any order.
func (d disk) after(at int64, fate int, r *rand.Rand) map[string][]byte {
	synced := make(map[string]int64) // when the last fsync of a file began that had ended
	for _, c := range d {
		if c.sync && c.ended <= at {
			synced[c.file] = max(synced[c.file], c.began)
		}
	}
	files := make(map[string][]byte)
	for i, c := range d {
		if c.sync || c.began > at {
			continue
		}
		data := c.data
		if c.ended > synced[c.file] {
			last := i+1 == len(d) || d[i+1].began > at
			switch {
			case fate == allGone, fate == someGone && r.IntN(2) == 0:
				continue
			case fate == lastTorn && last:
				data = data[:len(data)/1024*512]
			}
		}
		if c.data == nil {
			files[c.file] = resized(files[c.file], c.offset)
			continue
		}
		f := resized(files[c.file], max(int64(len(files[c.file])), c.offset+int64(len(data))))
		copy(f[c.offset:], data)
		files[c.file] = f
	}
	return files
}

func resized(b []byte, size int64) []byte {
	if n := size - int64(len(b)); n > 0 {
		b = append(b, make([]byte, n)...)
	}
	return b[:size]
}

func TestTorturePowerCut(t *testing.T) {
	t.Parallel()
	must(t, powerCut(t, hub, "tidewire.db", rounds(5, 20, 50)))
}

// TestTortureClusterPowerCut is that of the spool: a hub in cluster mode answers for what is on its own disk while Kafka is away.
func TestTortureClusterPowerCut(t *testing.T) {
	must(t, powerCut(t, hub, "spool.db", rounds(5, 20, 50)))
}

// powerCut cuts the power at many moments under load, just after an answer among them, and looks on the disk for everything that had been answered with success.
func powerCut(t *testing.T, bin, database string, cuts int) []string {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is needed to see what is on the disk; deploy/dev/tools installs it")
	}
	b := newBed(t, bin, map[string]load.Rule{"/all": {}}, "")
	if database == "spool.db" { // nobody is at these addresses
		b.storage += fmt.Sprintf("cluster:\n  kafka: {brokers: [%q]}\n  postgres: \"postgres://nobody@%s/none?sslmode=disable\"\n",
			load.FreeAddress(t.Context()), load.FreeAddress(t.Context()))
		b.configure(oneRoute())
	}
	trace := filepath.Join(b.dir, "trace")
	c := traced(b.command(), trace, filepath.Join(b.data, database))
	c.ReadyURL = "http://" + b.admin + "/healthz"
	child, err := load.Start(t.Context(), c)
	if err != nil {
		t.Fatalf("%v\n%s", err, b.said())
	}
	t.Cleanup(child.Kill)
	g := b.generator("p")
	g.Rate, g.Duration = 200, time.Duration(rounds(1, 3, 15))*time.Second
	sent := b.post(g)
	child.Kill()
	<-child.Exited()
	d := readDisk(t, trace)
	var answered []load.Post
	for _, p := range sent.Posts {
		if p.State == load.Accepted {
			answered = append(answered, p)
		}
	}
	if len(answered) < 100 || len(d) < 100 {
		t.Fatalf("%d webhooks were accepted, %d calls seen; the hub said %s", len(answered), len(d), b.said())
	}
	slices.SortFunc(answered, func(x, y load.Post) int { return int(x.Done - y.Done) })
	r := rand.New(rand.NewPCG(seed, 2))
	lost, unsynced := 0, 0
	for n := range cuts {
		at := answered[len(answered)/10+r.IntN(len(answered)*9/10)].Done
		if n%2 == 1 { // in the middle of something
			at = d[len(d)/10+r.IntN(len(d)*9/10)].began
		}
		files := d.after(at, n%fates, r)
		stored := restored(b, files, database)
		for _, p := range answered {
			if id := sent.ID(p).String(); p.Done <= at && !stored[id] {
				lost++
				b.fault("power cut %d of %d (fate %d): %s was answered 2xx and is not on the disk, which holds %d", n, cuts, n%fates, id, len(stored))
				break
			}
		}
		if !maps.EqualFunc(files, d.after(at, lastTorn, r), bytes.Equal) {
			unsynced++
		}
	}
	name := "power cut, " + database
	tell(t, name, cuts, "accepted", len(answered))
	tell(t, name, cuts, "runs in which something answered was lost", lost)
	tell(t, name, cuts, "runs in which something unsynced was", unsynced)
	return b.faults
}

// restored opens what is left of a database as SQLite does after a crash, and returns the IDs of the records in it.
func restored(b *bed, files map[string][]byte, database string) map[string]bool {
	b.t.Helper()
	dir := b.t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	conn, err := zsqlite.OpenConn(filepath.Join(dir, database), zsqlite.OpenReadWrite)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	rows := func(query string, f func(text string)) {
		err := sqlitex.ExecuteTransient(conn, query, &sqlitex.ExecOptions{ResultFunc: func(s *zsqlite.Stmt) error { f(s.ColumnText(0)); return nil }})
		if err != nil {
			b.fault("after a power cut: %s: %v", query, err)
		}
	}
	rows("PRAGMA integrity_check", func(text string) {
		if text != "ok" {
			b.fault("after a power cut: integrity: %s", text)
		}
	})
	var tables []string
	rows("SELECT 'log_records_' || id FROM log_topics", func(text string) { tables = append(tables, text) })
	stored := make(map[string]bool)
	for _, table := range tables {
		rows("SELECT uuid FROM "+table, func(text string) { stored[text] = true })
	}
	return stored
}
