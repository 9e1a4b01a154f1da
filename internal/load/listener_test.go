package load

import (
	"net"
	"os"
	"os/exec"
	"testing"
)

func TestListenerFindsWhoListens(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if p, err := Listener(port); err != nil || int(p) != os.Getpid() {
		t.Errorf("got %d, %v; want this process, %d", p, err, os.Getpid())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err := Listener(port); err == nil {
		t.Errorf("%d listens where nobody does", p)
	}
}

// A shell that works by itself and through another shell: both count, running or ended.
func TestFamilyCPUCountsDescendants(t *testing.T) {
	t.Parallel()
	const work = `i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done`
	sh := exec.Command("sh", "-c", `sh -c '`+work+`'; echo; read end`)
	in, err := sh.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := sh.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := sh.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = sh.Wait() }()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p := Process(sh.Process.Pid)
	own, err := p.CPU()
	if err != nil {
		t.Fatal(err)
	}
	family, err := p.FamilyCPU()
	if err != nil {
		t.Fatal(err)
	}
	if family < own+5*tick {
		t.Errorf("the shell used %v, with its children %v", own, family)
	}
	if all, err := Process(os.Getpid()).FamilyCPU(); err != nil || all < family {
		t.Errorf("this process with its descendants used %v, one of them %v (%v)", all, family, err)
	}
	if _, err := Process(1 << 30).FamilyCPU(); err == nil {
		t.Error("a process that there is not was measured")
	}
}
