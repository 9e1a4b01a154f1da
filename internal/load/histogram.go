package load

import (
	"math/bits"
	"time"
)

// Each power of two is cut into this many equal buckets, so that a value is known to about 1.6 %.
const (
	subBits = 6
	subs    = 1 << subBits
	octaves = 34 // rows of buckets: up to 2^39 ns, a little over 9 minutes
)

// Histogram counts durations in logarithmic buckets: at most 1.6 % off, from nanoseconds up to 9 minutes; longer ones count as 9 minutes. The zero
// value is ready. Not safe for concurrent use: give each goroutine its own and Merge them.
type Histogram struct {
	buckets [octaves * subs]uint32
	count   uint64
	max     time.Duration
}

// Record counts one duration; a negative one counts as zero.
func (h *Histogram) Record(d time.Duration) {
	h.buckets[bucket(uint64(max(d, 0)))]++
	h.count++
	h.max = max(h.max, d)
}

// Merge adds what other has counted.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.buckets {
		h.buckets[i] += n
	}
	h.count += other.count
	h.max = max(h.max, other.max)
}

// Count is how many durations were recorded.
func (h *Histogram) Count() uint64 { return h.count }

// Max is the longest duration recorded, exactly.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile returns the duration that a share q of all recorded ones does not exceed (q from 0 to 1), rounded
// up to the end of its bucket; 0 when nothing was recorded.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.count == 0 {
		return 0
	}
	rank := max(uint64(q*float64(h.count)+0.999999), 1)
	var seen uint64
	for i, n := range h.buckets {
		if seen += uint64(n); seen >= rank {
			return min(time.Duration(upper(i)), h.max)
		}
	}
	return h.max
}

// bucket numbers v: the first two rows of subs are exact, each further row spans one power of two.
func bucket(v uint64) int {
	if v < subs {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return min((shift+1)*subs+int(v>>shift)-subs, octaves*subs-1)
}

// upper is the largest value that falls into bucket i.
func upper(i int) uint64 {
	row, sub := i/subs, uint64(i%subs)
	if row == 0 {
		return sub
	}
	return (sub+subs+1)<<(row-1) - 1
}
