package pgstore

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// Indexed is where an event is in the log.
type Indexed = pipeline.Indexed

// Repeat is an event that is in the log at two places.
type Repeat = pipeline.Repeat

// maxIndexed bounds the texts of the index, in bytes; longer ones are cut, for they are searched by people and not compared.
const maxIndexed = 255

// Index writes down where events are, and says which of them are known at another place, too, and whether with another body. Indexing the same
// record again changes nothing and may tell of the same repeat again.
func (s *Store) Index(ctx context.Context, events []Indexed) (repeats []Repeat, err error) {
	for batch := range slices.Chunk(events, 2*mostRows) {
		found, err := s.indexBatch(ctx, batch)
		if err != nil {
			return repeats, fmt.Errorf("index %d events: %w", len(events), err)
		}
		repeats = append(repeats, found...)
	}
	return repeats, nil
}

func (s *Store) indexBatch(ctx context.Context, batch []Indexed) (repeats []Repeat, err error) {
	s.metrics.batch(kindIndex, len(batch))
	n := len(batch)
	recorded, happened, offsets := make([]int64, n), make([]int64, n), make([]int64, n)
	sources, partitions := make([]int32, n), make([]int32, n)
	ids, types, subjects, keys := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	hashes := make([][]byte, n)
	for i, e := range batch {
		num, err := s.number(ctx, "", storable(e.Source), partition{e.At.Topic, e.At.Partition})
		if err != nil {
			return nil, err
		}
		recorded[i], happened[i], offsets[i] = store.Nanos(e.Recorded), store.Nanos(e.Time), e.At.Offset
		sources[i], partitions[i] = num.source, num.partition
		ids[i] = eventID(e.ID, e.At)
		types[i], subjects[i], keys[i] = store.Clip(e.Type, maxIndexed), store.Clip(e.Subject, maxIndexed), store.Clip(e.Key, maxIndexed)
		hashes[i] = slices.Concat([]byte{}, e.BodyHash)
	}
	s.coverTimes(ctx, s.events, recorded)
	// Written first and compared afterwards: of two hubs that index the same ID at the same time one at least sees the other's.
	err = s.try(ctx, kindIndex, func(ctx context.Context) error {
		repeats = nil
		if _, err := s.pool.Exec(ctx, sqlIndex, recorded, happened, offsets, sources, partitions, ids, types, subjects, keys, hashes); err != nil {
			return err
		}
		rows, err := s.pool.Query(ctx, sqlIndexed, sources, ids, partitions, offsets)
		if err != nil {
			return err
		}
		found, err := collectIndexed(rows, true)
		if err != nil {
			return err
		}
		repeats, err = s.repeatsOf(ctx, batch, found)
		return err
	})
	return repeats, err
}

// indexedRow is a row of the index; n is the question it answers, where there are several.
type indexedRow struct {
	n, recorded, happened, offset int64
	source, partition             int32
	id, typ, subject, key         string
	hash                          []byte
}

func collectIndexed(rows pgx.Rows, numbered bool) (found []indexedRow, err error) {
	var r indexedRow
	into := []any{&r.n, &r.recorded, &r.happened, &r.offset, &r.source, &r.partition, &r.id, &r.typ, &r.subject, &r.key, &r.hash}
	if !numbered {
		into = into[1:]
	}
	_, err = pgx.ForEachRow(rows, into, func() error {
		found = append(found, r)
		r.hash = nil
		return nil
	})
	return found, err
}

// repeatsOf makes pairs, each once, of a batch and the rows that have its IDs at other places.
func (s *Store) repeatsOf(ctx context.Context, batch []Indexed, found []indexedRow) (repeats []Repeat, err error) {
	others, err := s.indexedOf(ctx, found)
	if err != nil {
		return nil, err
	}
	type pair struct{ first, again pipeline.Position }
	told := make(map[pair]bool)
	for i, other := range others {
		first, again := batch[found[i].n-1], other
		if earlier(again, first) {
			first, again = again, first
		}
		if p := (pair{first.At, again.At}); !told[p] {
			told[p] = true
			repeats = append(repeats, Repeat{First: first, Again: again, Conflict: !bytes.Equal(first.BodyHash, again.BodyHash)})
		}
	}
	return repeats, nil
}

func earlier(a, b Indexed) bool {
	return cmp.Or(a.Recorded.Compare(b.Recorded), strings.Compare(a.At.Topic, b.At.Topic), cmp.Compare(a.At.Partition, b.At.Partition), cmp.Compare(a.At.Offset, b.At.Offset)) < 0
}

func (s *Store) indexedOf(ctx context.Context, rows []indexedRow) (events []Indexed, err error) {
	sources, partitions := make([]int32, len(rows)), make([]int32, len(rows))
	for i, r := range rows {
		sources[i], partitions[i] = r.source, r.partition
	}
	n, err := s.knowing(ctx, nil, sources, partitions)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		events = append(events, Indexed{
			At: n.position(r.partition, r.offset), ID: r.id, Source: n.sourceNames[r.source], Type: r.typ, Subject: r.subject, Key: r.key,
			Time: store.Instant(r.happened), Recorded: store.Instant(r.recorded), BodyHash: r.hash,
		})
	}
	return events, nil
}

// Find returns the places of an event in the log, the one recorded first before the others; none when it is not in the index.
func (s *Store) Find(ctx context.Context, source, id string) (events []Indexed, err error) {
	err = s.try(ctx, kindIndex, func(ctx context.Context) error {
		sourceID, err := s.sourceOf(ctx, storable(source))
		if err != nil || sourceID == 0 {
			return err
		}
		rows, err := s.pool.Query(ctx, sqlFind, sourceID, storable(id))
		if err != nil {
			return err
		}
		found, err := collectIndexed(rows, false)
		if err != nil {
			return err
		}
		events, err = s.indexedOf(ctx, found)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find event %s of %s: %w", id, source, err)
	}
	return events, nil
}
