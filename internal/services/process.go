package services

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// command says how to start a process.
type command struct {
	args []string
	env  []string // added to this process's own
	dir  string   // working directory
	log  string   // file that takes its standard output and error, appended
	// user is who runs it; nil is who runs this process.
	user *syscall.Credential
	// orphaned is the signal it gets when this process dies, so that nothing is left behind by a test that is killed.
	orphaned syscall.Signal
}

// process is a server that was started.
type process struct {
	cmd    *exec.Cmd
	log    string
	from   int64 // where in the log this process begins
	exited chan struct{}
	err    error // of Wait; read after exited is closed
}

// start starts a process in a process group of its own: a Ctrl-C in a terminal is for whoever started it, who then stops it in order.
func start(c command) (*process, error) {
	output, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.args[0], err)
	}
	defer output.Close() // the process has its own
	from, err := output.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.args[0], err)
	}
	cmd := exec.Command(c.args[0], c.args[1:]...) //nolint:gosec,noctx // the servers are what this package is for, and outlive the context of their start
	cmd.Env, cmd.Dir = append(os.Environ(), c.env...), c.dir
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: c.orphaned, Credential: c.user}
	p := &process{cmd: cmd, log: c.log, from: from, exited: make(chan struct{})}
	started := make(chan error)
	go func() { // ends with the process; end waits for it
		// Linux sends Pdeathsig when the thread that started the process ends, so that thread is kept for as long as the process lives.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.args[0], err)
	}
	return p, nil
}

// running reports whether the process has not ended; a nil process has.
func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// end sends a signal, waits for the process to end, and kills it after a while. It tells whether the process ended by itself.
func (p *process) end(signal syscall.Signal, within time.Duration) (itself bool) {
	_ = p.cmd.Process.Signal(signal) // an error means that it has ended already
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.exited:
		return true
	case <-timer.C:
	}
	p.kill()
	return false
}

// kill ends the process at once and waits for it. A stopped process is killed as well.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// await asks until the answer is nil; it gives up when the process ends or the context does. The error then has the last answer and the end of the log.
func (p *process) await(ctx context.Context, name string, ask func(context.Context) error) error {
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	last := errors.New("no answer")
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-p.exited:
			if p.said("Address already in use") { // Kafka and PostgreSQL both say it in the system's words
				return fmt.Errorf("%s: %w; %s says more", name, errPortTaken, p.log)
			}
			return fmt.Errorf("%s ended before it was ready (%w); the end of %s:\n%s", name, exitOf(p.err), p.log, tail(p.log))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready in time: %w (%w); the end of %s:\n%s", name, last, ctx.Err(), p.log, tail(p.log))
		case <-pause.C:
		}
	}
}

// said reports whether the process wrote a text to its log.
func (p *process) said(text string) bool {
	f, err := os.Open(p.log)
	if err != nil {
		return false
	}
	defer f.Close()
	log, err := io.ReadAll(io.NewSectionReader(f, p.from, 1<<20))
	return err == nil && bytes.Contains(log, []byte(text))
}

func exitOf(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// tail is the last 40 lines of a file, at most 8 KiB of it.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(size-8192, 0), io.SeekStart)
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(len(lines)-40, 0):], "\n")
}

// run runs a program to its end; what it printed is in the error.
func run(ctx context.Context, c command) error {
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...) //nolint:gosec // as above
	cmd.Env, cmd.Dir = append(os.Environ(), c.env...), c.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.user}
	cmd.WaitDelay = 5 * time.Second
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		text := bytes.TrimSpace(output.Bytes())
		return fmt.Errorf("%s: %w\n%s", strings.Join(c.args, " "), err, text[max(len(text)-2000, 0):])
	}
	return nil
}
