package main

import (
	"os"
	"runtime"
)

// Settings of Go's runtime that a hub runs with. An operator's GOGC and GOMAXPROCS go before them.
const (
	// heapRoom is how much a hub's heap may grow, beyond twice what is live, before the garbage collector runs.
	heapRoom = 36 << 20
	// inDiskCalls is how many goroutines sit in a read, write or sync of the store's file at a time, as a rule: the writer, and the one
	// that copies the write-ahead log into the file.
	inDiskCalls = 2
)

// tune makes the runtime fit for a hub, whose events go to its own disk or not, and returns what ends that.
//
// Garbage: a hub's live data are a few MiB, so that by Go's rule (collect when the heap has doubled) it would be collected many times a
// second under load, for an eighth of all its CPU time. The rule has no lower bound to set, so tune holds memory that is never
// touched: it counts as live, but the system never has to find a page for it. A higher GOGC would do the same for a small
// heap, and let one that is large already grow out of all bounds. go_memstats_* show that much more than there is.
//
// Processors: a goroutine in a disk call keeps one of the runtime's until the runtime takes it away, which it may notice late. On two cores
// that is half of them, while the calls of all others wait. So there are as many more as can be held like that; the threads in disk
// calls use no core. In cluster mode events go over the network, no call is slow, and more processors than cores only take work from one another.
func tune(disk bool) (end func()) {
	if disk && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + inDiskCalls)
	}
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	room := make([]byte, heapRoom)
	return func() { runtime.KeepAlive(room) }
}
