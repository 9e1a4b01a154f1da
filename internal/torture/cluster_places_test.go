package torture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/segmentio/kafka-go"
)

// lane is one partition as one route reads it.
type lane struct {
	route     string
	partition int
}

func (l lane) String() string { return fmt.Sprintf("%s/%d", l.route, l.partition) }

// watch follows where the routes' groups are while a scenario runs.
type watch struct {
	r      *rack
	client *kafka.Client
	ledger *pgx.Conn // nil while there is none
	places map[lane]int64
	proved map[lane]int64 // everything before has an outcome
	fell   []string
	passed []string
	// commits and events are how many were looked at.
	commits, events int
}

// watchPlaces asks Kafka ten times a second where the routes' groups are, until stop is called. No place may ever fall; and what is before a place has an outcome
// in the ledger by then. At the end the coordinators' own record is read, which misses no commit: that of a hub that was not asked in time either.
func (r *rack) watchPlaces() (stop func()) {
	client, done := r.client()
	w := &watch{r: r, client: client, places: make(map[lane]int64), proved: make(map[lane]int64)}
	ctx, cancel := context.WithCancel(r.t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			w.look(ctx)
			if n%5 == 0 {
				w.prove(ctx)
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
	end := func() {
		r.t.Helper()
		cancel()
		watching.Wait()
		defer done()
		defer w.hangUp()
		if !r.t.Failed() {
			w.look(r.t.Context())
			w.prove(r.t.Context())
			w.reread()
		}
		tell(r.t, r.name, r.runs, "commits looked at", w.commits)
		tell(r.t, r.name, r.runs, "committed offsets that fell", len(w.fell))
		tell(r.t, r.name, r.runs, "events behind committed offsets looked up", w.events)
		tell(r.t, r.name, r.runs, "of them without an outcome", len(w.passed))
		for _, f := range append(w.fell[:min(len(w.fell), 5)], w.passed[:min(len(w.passed), 5)]...) {
			r.fault("%s", f)
		}
	}
	r.t.Cleanup(func() {
		cancel()
		watching.Wait()
		w.hangUp()
		done()
	})
	return end
}

// hangUp ends the connection to the ledger.
func (w *watch) hangUp() {
	if w.ledger != nil {
		_ = w.ledger.Close(context.WithoutCancel(w.r.t.Context()))
		w.ledger = nil
	}
}

// at notes a place.
func (w *watch) at(l lane, offset int64, how string) {
	if offset < w.places[l] {
		w.fell = append(w.fell, fmt.Sprintf("the place of %s fell from %d to %d (%s)", l, w.places[l], offset, how))
	}
	w.places[l] = max(w.places[l], offset)
}

// look asks where the groups are.
func (w *watch) look(ctx context.Context) {
	topic, partitions := w.r.prefix+"events.stripe", make([]int, w.r.partitions)
	for i := range partitions {
		partitions[i] = i
	}
	for _, route := range w.r.routes {
		answer, err := w.client.OffsetFetch(ctx, &kafka.OffsetFetchRequest{GroupID: w.r.prefix + route, Topics: map[string][]int{topic: partitions}})
		if err != nil || answer.Error != nil {
			continue // the fault may be the broker's end
		}
		for _, p := range answer.Topics[topic] {
			if p.Error == nil {
				w.at(lane{route, p.Partition}, p.CommittedOffset, "as the coordinator says")
			}
		}
	}
}

// prove looks whether everything before the places that are known has an outcome in the ledger, or is parked there. What cannot be asked now is asked later.
func (w *watch) prove(ctx context.Context) {
	if w.ledger == nil {
		var err error
		if w.ledger, err = pgx.Connect(ctx, w.r.database); err != nil {
			w.ledger = nil
			return
		}
	}
	for l, place := range w.places {
		at := make(map[string]int64)
		if w.proved[l] >= place {
			continue
		}
		if err := w.r.read(ctx, w.client, w.r.prefix+"events.stripe", l.partition, w.proved[l], place, func(rec *kafka.Record) {
			at[header(rec, "ce_id")] = rec.Offset
		}); err != nil {
			continue
		}
		missing, err := w.missing(ctx, l.route, at)
		if err != nil {
			w.hangUp()
			return
		}
		for _, id := range missing {
			w.passed = append(w.passed, fmt.Sprintf("the place of %s is %d, and %s at %d has no outcome", l, place, id, at[id]))
		}
		w.events += len(at)
		w.proved[l] = place
	}
}

// missing are the events without an outcome.
func (w *watch) missing(ctx context.Context, route string, at map[string]int64) (missing []string, err error) {
	ids := make([]string, 0, len(at))
	for id := range at {
		ids = append(ids, id)
	}
	rows, err := w.ledger.Query(ctx, "SELECT i FROM unnest($2::text[]) i WHERE NOT EXISTS (SELECT FROM tidewire.deliveries d"+
		" JOIN tidewire.routes r ON r.id = d.route_id JOIN tidewire.sources s ON s.id = d.source_id WHERE r.name = $1 AND s.name = 'stripe' AND d.event_id = i)", route, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// reread reads the topic on which the coordinators keep every commit, in the order in which they took them.
func (w *watch) reread() {
	const journal = "__consumer_offsets"
	r, ctx := w.r, w.r.t.Context()
	known, err := w.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{journal}})
	if err != nil || len(known.Topics) != 1 {
		r.fault("the coordinators' journal cannot be found: %v", err)
		return
	}
	clear(w.places)
	for _, p := range known.Topics[0].Partitions {
		if err := w.journal(ctx, p); err != nil {
			r.fault("the coordinators' journal cannot be read: %v", err)
		}
	}
	if w.commits == 0 {
		r.fault("the coordinators' journal holds no commit of the routes: nothing is proved")
	}
}

// journal goes through one partition of the coordinators' journal. kafka-go's Client knows nothing of Kafka's own topics, its Conn does.
func (w *watch) journal(ctx context.Context, p kafka.Partition) error {
	conn, err := (&kafka.Dialer{}).DialPartition(ctx, "tcp", "", p)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	at, to, err := conn.ReadOffsets()
	for before := int64(-1); err == nil && at < to && at > before; {
		before = at
		if _, err = conn.Seek(at, kafka.SeekAbsolute|kafka.SeekDontCheck); err != nil {
			break
		}
		batch := conn.ReadBatch(1, 8<<20)
		for {
			m, err := batch.ReadMessage()
			if err != nil {
				break
			}
			if m.Offset < at {
				continue
			}
			at = m.Offset + 1
			if l, offset, ok := w.commit(m.Key, m.Value); ok {
				w.commits++
				w.at(l, offset, "as the coordinator's journal says")
			}
		}
		err = batch.Close()
	}
	if err == nil && at < to {
		return fmt.Errorf("%s/%d: stuck at %d of %d", p.Topic, p.ID, at, to)
	}
	return err
}

// commit decodes a record of the journal; ok is false for one that is something else, or another's.
func (w *watch) commit(key, value []byte) (l lane, offset int64, ok bool) {
	word := func() string {
		if len(key) < 2 {
			return ""
		}
		n := min(int(binary.BigEndian.Uint16(key)), len(key)-2)
		s := string(key[2 : 2+n])
		key = key[2+n:]
		return s
	}
	if len(key) < 2 || binary.BigEndian.Uint16(key) > 1 || len(value) < 10 {
		return l, 0, false
	}
	key = key[2:]
	group, topic := word(), word()
	route, ours := strings.CutPrefix(group, w.r.prefix)
	if !ours || topic != w.r.prefix+"events.stripe" || !slices.Contains(w.r.routes, route) || len(key) != 4 {
		return l, 0, false
	}
	return lane{route, int(binary.BigEndian.Uint32(key))}, int64(binary.BigEndian.Uint64(value[2:])), true
}

// bounds are a partition's first offset and the one after its last.
func (r *rack) bounds(ctx context.Context, client *kafka.Client, wire string, partition int) (from, to int64, err error) {
	found, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{
		wire: {kafka.FirstOffsetOf(partition), kafka.LastOffsetOf(partition)},
	}})
	if err != nil {
		return 0, 0, fmt.Errorf("bounds of %s: %w", wire, err)
	}
	for _, p := range found.Topics[wire] {
		if p.Error != nil {
			return 0, 0, fmt.Errorf("bounds of %s: %w", wire, p.Error)
		}
		from, to = max(p.FirstOffset, 0), p.LastOffset
	}
	return from, to, nil
}

// read goes through a partition's records from one offset up to another.
func (r *rack) read(ctx context.Context, client *kafka.Client, wire string, partition int, from, to int64, each func(*kafka.Record)) error {
	for at := from; at < to; {
		before := at
		answer, err := client.Fetch(ctx, &kafka.FetchRequest{Topic: wire, Partition: partition, Offset: at, MinBytes: 1, MaxBytes: 8 << 20, MaxWait: time.Second})
		if err == nil {
			err = answer.Error
		}
		for err == nil {
			var record *kafka.Record
			if record, err = answer.Records.ReadRecord(); err == nil && record.Offset >= at {
				if at = record.Offset + 1; record.Offset < to {
					each(record)
				}
			}
		}
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("read %s/%d: %w", wire, partition, err)
		}
		if at == before {
			return nil // what is left was tidied away
		}
	}
	return nil
}

func header(rec *kafka.Record, name string) string {
	for _, h := range rec.Headers {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return fmt.Sprint("without ", name, ": ", rec.Offset)
}
