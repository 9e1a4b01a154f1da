package kafkalog

import (
	"context"
	"time"
)

// A request costs broker and hub more than the few records in it would. While requests carry crowd records or more, which they do only when much is going
// on, the next one of its kind begins no sooner than pace after the last one began, and what comes meanwhile shares it. After a request with less
// the next one goes at once: where there is little to do nobody waits.
const (
	crowd = 8
	pace  = 4 * time.Millisecond
)

// breathe waits until the request after one that began at a time, and carried so many records, may go.
func breathe(ctx context.Context, began time.Time, records int) {
	if left := time.Until(began.Add(pace)); records >= crowd && left > 0 {
		wait(ctx, left)
	}
}
