package bench

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// namespace is a network of its own on this machine: a loopback that no other network reaches, and nothing else. Nil is the machine's own network.
type namespace struct{ file *os.File }

// newNamespace makes one, which root may. It lives until it is closed and the last process in it has ended.
func newNamespace() (*namespace, error) {
	var n namespace
	err := onThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if n.file, err = os.Open(threadNetwork); err != nil {
			return err
		}
		return loopbackUp()
	})
	if err != nil {
		n.close()
		return nil, err
	}
	return &n, nil
}

// threadNetwork is the network that the calling thread is in.
const threadNetwork = "/proc/thread-self/ns/net"

// onThread calls f on a thread of its own, which is brought back to the network it came from.
func onThread(f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(threadNetwork)
		if err != nil {
			runtime.UnlockOSThread()
			result <- err
			return
		}
		err = f()
		// A thread that cannot come back stays locked, and so ends with this goroutine: no other code may run on it.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		_ = home.Close()
		result <- err
	}()
	return <-result
}

// loopbackUp lets the loopback of the calling thread's network carry packets.
func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer func() { _ = unix.Close(s) }()
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bring the loopback up: %w", err)
	}
	return nil
}

// do calls f in the namespace: sockets that f makes itself, and processes that it starts, belong to it for good. Goroutines that f starts do not.
func (n *namespace) do(f func() error) error {
	if n == nil {
		return f()
	}
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

func (n *namespace) close() {
	if n != nil && n.file != nil {
		_ = n.file.Close()
	}
}
