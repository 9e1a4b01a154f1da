package torture

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

// smallDisk makes the bed's data_dir a file system of its own. As root it is mounted for all to see; other users get one in a
// namespace of the hub's own, which is entered through /proc.
func (b *bed) smallDisk(size string) (wrap []string, path func(pid int) string) {
	b.t.Helper()
	if err := os.MkdirAll(b.data, 0o700); err != nil {
		b.t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := syscall.Mount("tmpfs", b.data, "tmpfs", 0, "size="+size); err != nil {
			b.t.Fatalf("mount a small file system: %v", err)
		}
		b.t.Cleanup(func() {
			if err := syscall.Unmount(b.data, 0); err != nil {
				b.t.Error(err)
			}
		})
		return nil, func(int) string { return b.data }
	}
	wrap = []string{"unshare", "-Urm", "sh", "-c", `mount -t tmpfs -o size=` + size + ` tmpfs "$0" && exec "$@"`, b.data}
	if out, err := exec.Command(wrap[0], append(wrap[1:], "true")...).CombinedOutput(); err != nil {
		b.t.Fatalf("a small file system needs root or unprivileged user namespaces: %v: %s", err, out)
	}
	return wrap, func(pid int) string { return "/proc/" + strconv.Itoa(pid) + "/root" + b.data }
}

// fill writes until there is no room.
func fill(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, block := range []int{1 << 20, 4096} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, block))
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
	}
	return nil
}

func TestTortureDiskFull(t *testing.T) {
	t.Parallel()
	must(t, diskFull(t, hub))
}

// diskFull fills the disk under a hub at work and frees it again.
func diskFull(t *testing.T, bin string) []string {
	t.Helper()
	b := newBed(t, bin, map[string]load.Rule{"/all": {}}, "")
	wrap, path := b.smallDisk("64m")
	c := b.command()
	c.Args = append(wrap, c.Args...)
	child, err := load.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(child.Kill)
	g := b.generator("d")
	g.Rate = 200
	stop := b.background(g)
	if !await(t, 10*time.Second, func() bool { return b.sink.Taken("/all") > 50 }) {
		t.Fatal("nothing was delivered")
	}
	ballast := filepath.Join(path(int(child.Process)), "ballast")
	refused := 0
	for n := 0; n < 400 && refused < 3; n++ {
		if err := fill(ballast); err != nil {
			b.fault("fill: %v", err)
			break
		}
		switch code, retryAfter := b.stripe("evt_full_" + strconv.Itoa(n)); {
		case code == http.StatusServiceUnavailable && retryAfter != "":
			refused++
		case code == http.StatusServiceUnavailable:
			b.fault("503 without Retry-After")
		case code != http.StatusOK:
			b.fault("a webhook on a full disk is answered %d; the hub said %s", code, b.said())
			return b.faults
		}
		pause(t, 10*time.Millisecond)
	}
	if refused == 0 {
		b.fault("a full disk is never noticed")
		return b.faults
	}
	b.whileFull(child)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	freed := time.Now()
	if !await(t, 5*time.Second, func() bool { code, _ := b.stripe("evt_freed"); return code == http.StatusOK }) {
		b.fault("no webhook is taken after the disk was freed; the hub said %s", b.said())
	}
	tell(t, "disk full", 1, "taken again after ms", time.Since(freed).Milliseconds())
	pause(t, 300*time.Millisecond)
	sent := stop()
	b.drained(20*time.Second, "all")
	v := b.check(sent, "/all", 0)
	tell(t, "disk full", 1, "lost", v.Lost)
	tell(t, "disk full", 1, "duplicates", v.Duplicates)
	b.stop(child)
	if wrap == nil {
		b.addUp("events.stripe", sent.Count(load.Accepted), "all")
	}
	return b.faults
}

// whileFull: everything that needs no room goes on, nothing runs in circles.
func (b *bed) whileFull(child *load.Child) {
	before, _ := child.CPU()
	said := len(b.everything())
	began := time.Now()
	pause(b.t, 2*time.Second)
	for _, path := range []string{"/healthz", "/metrics"} {
		if code, _, err := b.get("http://" + b.admin + path); code != http.StatusOK {
			b.fault("%s on a full disk: %d %v", path, code, err)
		}
	}
	if code, body, err := b.get("http://" + b.admin + "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "disk full") {
		b.fault("/readyz on a full disk: %d %v: %s", code, err, body)
	}
	after, err := child.CPU()
	if err != nil {
		b.fault("the hub has ended: %v", err)
		return
	}
	share := float64(after-before) / float64(time.Since(began))
	tell(b.t, "disk full", 1, "CPU share while full", fmt.Sprintf("%.2f", share))
	tell(b.t, "disk full", 1, "bytes logged a second while full", int(float64(len(b.everything())-said)/time.Since(began).Seconds()))
	if share > 0.5 {
		b.fault("the hub is busy (%.0f %% of a core) with a disk that is full", 100*share)
	}
}

// everything is all the hub wrote.
func (b *bed) everything() string {
	data, err := os.ReadFile(b.output)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

func TestTortureDeadFsync(t *testing.T) {
	t.Parallel()
	for range rounds(1, 1, 10) {
		must(t, deadFsync(t, hub))
	}
}

// deadFsync lets fsync fail from some call on, as a dying disk does: what is not durable must not be answered, and the process must go.
func deadFsync(t *testing.T, bin string) []string {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("strace is needed to make fsync fail; deploy/dev/tools installs it")
	}
	b := newBed(t, bin, map[string]load.Rule{"/all": {}}, "")
	trace := filepath.Join(b.dir, "trace")
	c := b.command()
	// -D: the hub stays our child, the tracer is its own.
	c.Args = append([]string{"strace", "-D", "-f", "-qq", "-ttt", "--seccomp-bpf", "-o", trace, "-e", "trace=fsync,fdatasync",
		"-e", "inject=fsync,fdatasync:error=EIO:when=200+"}, c.Args...)
	child, err := load.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(child.Kill)
	g := b.generator("e")
	g.Tries, g.Rate = 1, 2000
	stop := b.background(g)
	var broke time.Time
	if !await(t, 20*time.Second, func() bool { broke = firstInjected(t, trace); return !broke.IsZero() }) {
		t.Fatal("fsync was never made to fail")
	}
	select {
	case <-child.Exited():
		tell(t, "fsync EIO", 1, "exit after ms", time.Since(broke).Milliseconds())
	case <-time.After(5 * time.Second):
		b.fault("the hub lives on five seconds after fsync failed")
	}
	sent := stop()
	exit, ended := errors.AsType[*exec.ExitError](child.Stop(time.Second))
	if !ended || exit.ExitCode() <= 0 {
		b.fault("a hub that cannot write any more ended with %v", exit)
	}
	after := 0
	for _, p := range sent.Posts {
		if p.State == load.Accepted && p.Due > broke.UnixNano() {
			after++
		}
	}
	if after > 0 {
		b.fault("%d webhooks that came after fsync had failed were answered 2xx", after)
	}
	tell(t, "fsync EIO", 1, "2xx after it", after)
	healed := b.start()
	b.drained(20*time.Second, "all")
	v := b.check(sent, "/all", inHand*2)
	tell(t, "fsync EIO", 1, "lost after restart", v.Lost)
	b.stop(healed)
	return b.faults
}

// firstInjected is when strace first made a call fail.
func firstInjected(t *testing.T, trace string) time.Time {
	data, err := os.ReadFile(trace)
	if err != nil {
		return time.Time{}
	}
	for line := range bytes.Lines(data) {
		if !bytes.Contains(line, []byte("INJECTED")) || !bytes.HasSuffix(line, []byte("\n")) {
			continue
		}
		fields := strings.Fields(string(line))
		at, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			t.Fatalf("trace: %s: %v", line, err)
		}
		return time.UnixMicro(int64(at * 1e6))
	}
	return time.Time{}
}

func TestTortureTwoHubsOnOneFolder(t *testing.T) {
	t.Parallel()
	must(t, twoHubs(t, hub))
}

// twoHubs starts a second hub on the data of one that runs.
func twoHubs(t *testing.T, bin string) []string {
	t.Helper()
	b := newBed(t, bin, map[string]load.Rule{"/all": {}}, "")
	first := b.start()
	other := *b
	other.listen, other.admin, other.config = load.FreeAddress(t.Context()), load.FreeAddress(t.Context()), filepath.Join(b.dir, "other.yaml")
	other.configure(connections("all") + "routes:\n  all: {from: stripe, to: all}\n")
	code, output, took := b.exit(5*time.Second, bin, "serve", "--config", other.config)
	tell(t, "second hub on one data_dir", 1, "exit after ms", took.Milliseconds())
	if code != 3 || !strings.Contains(output, "in use by another process") || !strings.Contains(output, strconv.Itoa(int(first.Process))) {
		b.fault("the second hub ended with %d: %s", code, output)
	}
	if took > 3*time.Second {
		b.fault("the second hub took %s to give up", took)
	}
	g := b.generator("t")
	g.Events = 20
	sent := b.post(g)
	b.drained(10*time.Second, "all")
	b.check(sent, "/all", 0)
	b.stop(first)
	return b.faults
}
