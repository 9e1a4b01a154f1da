//go:build failpoints

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// armed is the place named in the environment, read at the first Hit.
var armed = sync.OnceValue(func() *point {
	name, count, found := strings.Cut(os.Getenv("TIDEWIRE_FAILPOINT"), ":")
	p := &point{name: name}
	p.left.Store(1)
	if n, err := strconv.ParseInt(count, 10, 64); found && err == nil {
		p.left.Store(n)
	}
	return p
})

type point struct {
	name string
	left atomic.Int64
}

// Hit kills the process when name is the armed place and this is the armed passage of it.
func Hit(name string) {
	p := armed()
	if p.name != name || p.left.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal may arrive a moment later; nothing may happen in between
}
