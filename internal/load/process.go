package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// Process measures a running process by its id, from Linux's /proc.
type Process int

// Memory is what a process holds resident, in bytes: now, and at its peak.
type Memory struct{ RSS, Peak int64 }

// CPU is the user and system time the process and its threads have used so far, in steps of 10 ms.
func (p Process) CPU() (time.Duration, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", int(p)))
	if err != nil {
		return 0, fmt.Errorf("measure process %d: %w", int(p), err)
	}
	return ParseStat(data)
}

// Memory reads the resident size.
func (p Process) Memory() (Memory, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", int(p)))
	if err != nil {
		return Memory{}, fmt.Errorf("measure process %d: %w", int(p), err)
	}
	return ParseStatus(data)
}

// tick is the unit of times in /proc/<pid>/stat. It is USER_HZ, which Linux fixes at 100 a second on every
// architecture Go runs on, apart from the kernel's own HZ (man 5 proc, man 7 time).
const tick = time.Second / 100

// ParseStat reads user and system time out of /proc/<pid>/stat. The name of the program, in brackets, may itself hold
// spaces and brackets.
func ParseStat(data []byte) (time.Duration, error) {
	i := bytes.LastIndexByte(data, ')')
	fields := bytes.Fields(data[i+1:])
	if i < 0 || len(fields) < 13 {
		return 0, errors.New("stat of a process has too few fields")
	}
	user, err := strconv.ParseInt(string(fields[11]), 10, 64)
	system, err2 := strconv.ParseInt(string(fields[12]), 10, 64)
	if err := errors.Join(err, err2); err != nil {
		return 0, fmt.Errorf("stat of a process: %w", err)
	}
	return time.Duration(user+system) * tick, nil
}

// ParseStatus reads VmRSS and VmHWM out of /proc/<pid>/status.
func ParseStatus(data []byte) (Memory, error) {
	var m Memory
	var found int
	for line := range bytes.Lines(data) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		var into *int64
		switch string(name) {
		case "VmRSS":
			into = &m.RSS
		case "VmHWM":
			into = &m.Peak
		default:
			continue
		}
		kib, err := strconv.ParseInt(string(bytes.TrimSuffix(bytes.TrimSpace(value), []byte(" kB"))), 10, 64)
		if err != nil {
			return m, fmt.Errorf("status of a process: %s: %w", name, err)
		}
		*into = kib << 10
		found++
	}
	if found != 2 {
		return m, errors.New("status of a process names no resident size")
	}
	return m, nil
}

// Child is a process that was started to be measured.
type Child struct {
	Process
	// Ready is the time from just before the start of the process to its first 200 on the ready URL.
	Ready time.Duration

	cmd    *exec.Cmd
	output *os.File
	exited chan struct{}
	err    error // of Wait; read after exited is closed
}

// Command says how to start a Child.
type Command struct {
	// Args are the program and its arguments.
	Args []string
	// Env is added to this process's own environment, as "NAME=value".
	Env []string
	// Output is the file that takes its standard output and error, appended.
	Output string
	// ReadyURL is asked until it answers 200.
	ReadyURL string
	// Within bounds the time until then; default 30 s.
	Within time.Duration
}

// Start starts a process and waits until it is ready. When it exits before, or is not ready in time, it is killed and waited
// for, and the error holds the end of its output.
func Start(ctx context.Context, c Command) (*Child, error) {
	if c.Within == 0 {
		c.Within = 30 * time.Second
	}
	output, err := os.OpenFile(c.Output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Args[0], err)
	}
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdout, cmd.Stderr = output, output
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		_ = output.Close()
		return nil, fmt.Errorf("start %s: %w", c.Args[0], err)
	}
	ch := &Child{Process: Process(cmd.Process.Pid), cmd: cmd, output: output, exited: make(chan struct{})}
	go func() { // ends with the process; Stop and Kill wait for it
		ch.err = cmd.Wait()
		close(ch.exited)
	}()
	bound, cancel := context.WithTimeout(ctx, c.Within)
	defer cancel()
	if err := ch.awaitReady(bound, c.ReadyURL); err != nil {
		ch.Kill()
		return nil, fmt.Errorf("start %s: %w; its output ends with: %s", c.Args[0], err, tail(c.Output))
	}
	ch.Ready = time.Since(begin)
	return ch, nil
}

func (ch *Child) awaitReady(ctx context.Context, url string) error {
	client := &http.Client{Transport: &http.Transport{Proxy: nil}, Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	pause := time.NewTicker(2 * time.Millisecond)
	defer pause.Stop()
	last := errors.New("no answer")
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		answer, err := client.Do(r)
		if err == nil {
			_ = answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("it answers %d", answer.StatusCode)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ch.exited:
			return fmt.Errorf("it ended before it was ready: %w", exitError(ch.err))
		case <-ctx.Done():
			return fmt.Errorf("not ready at %s in time: %w", url, last)
		case <-pause.C:
		}
	}
}

func exitError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// tail is the last 500 bytes of a file, for an error message.
func tail(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(data[max(len(data)-500, 0):]))
}

// Stop asks the process to end (SIGTERM) and waits; after the time within it is killed. The error is the
// process's own exit, nil for exit code 0.
func (ch *Child) Stop(within time.Duration) error {
	_ = ch.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended already
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-ch.exited:
	case <-timer.C:
		ch.Kill()
		return fmt.Errorf("process %d did not end within %s and was killed", int(ch.Process), within)
	}
	_ = ch.output.Close()
	return ch.err
}

// Kill ends the process at once (SIGKILL) and waits for it.
func (ch *Child) Kill() {
	_ = ch.cmd.Process.Kill()
	<-ch.exited
	_ = ch.output.Close()
}

// Exited is closed when the process has ended, by itself or not.
func (ch *Child) Exited() <-chan struct{} { return ch.exited }

// FreeAddress is a "127.0.0.1:port" on which nothing listened a moment ago; empty when none is found. The port lies below those that
// systems give to outgoing connections, so that none of these takes it before the process it is meant for.
func FreeAddress(ctx context.Context) string {
	var c net.ListenConfig
	for range 1000 {
		address := fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000))
		if l, err := c.Listen(ctx, "tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	return ""
}
