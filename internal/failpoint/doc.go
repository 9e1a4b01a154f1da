// Package failpoint names the places at which a test build can be made to die, so that a test may ask what a
// crash between any two steps leaves behind. In a normal build Hit is empty and costs nothing.
//
// A binary built with the tag "failpoints" reads TIDEWIRE_FAILPOINT once, as "name" or "name:n", and kills its own
// process with SIGKILL at the n-th Hit of that name (n counts from 1 and is 1 when left out). Nothing is flushed,
// no deferred call runs: what a power switch would do to the process.
package failpoint
