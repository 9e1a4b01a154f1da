package pgstore

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// In the same topic a place goes forward whatever the clocks say; back, or into another topic, only by a later word.
	sqlKeepPlaces = `INSERT INTO places (topic_id, log_offset, confirmed_at, partition, group_name, topic)
		SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::int[], $5::text[], $6::text[])
		ON CONFLICT (group_name, topic, partition) DO UPDATE
		SET topic_id = excluded.topic_id, log_offset = excluded.log_offset, confirmed_at = excluded.confirmed_at
		WHERE (places.topic_id, places.log_offset) <> (excluded.topic_id, excluded.log_offset)
		AND (excluded.confirmed_at >= places.confirmed_at OR places.topic_id = excluded.topic_id AND excluded.log_offset > places.log_offset)`
	sqlPlaces = `SELECT group_name, topic, partition, topic_id, log_offset, confirmed_at FROM places WHERE group_name = $1 ORDER BY topic, partition`
)

// Place is how far a consumer group has got in a partition of the log.
type Place struct {
	// Group and Topic are named as on the cluster.
	Group, Topic string
	Partition    int32
	// TopicID tells topics of one name apart; zero where the cluster does not say.
	TopicID [16]byte
	// Offset is that before which the group has finished everything.
	Offset int64
	// At is when the cluster had confirmed it, by the clock of the hub that says so.
	At time.Time
}

// KeepPlaces writes places down, each partition of a group at most once in a call. A place that is known is replaced by one that is further in the
// same topic, or that was confirmed later; another is dropped without an error.
func (s *Store) KeepPlaces(ctx context.Context, places []Place) error {
	n := len(places)
	ids, offsets, times, partitions := make([][16]byte, n), make([]int64, n), make([]int64, n), make([]int32, n)
	groups, topics := make([]string, n), make([]string, n)
	for i, p := range places {
		ids[i], offsets[i], times[i], partitions[i] = p.TopicID, p.Offset, p.At.UnixNano(), p.Partition
		groups[i], topics[i] = p.Group, p.Topic
	}
	err := s.try(ctx, kindPlaces, func(ctx context.Context) error {
		_, err := s.pool.Exec(ctx, sqlKeepPlaces, ids, offsets, times, partitions, groups, topics)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep %d places of groups: %w", n, err)
	}
	return nil
}

// Places returns what was kept of a group, by topic and partition.
func (s *Store) Places(ctx context.Context, group string) (places []Place, err error) {
	err = s.try(ctx, kindPlaces, func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, sqlPlaces, group)
		if err != nil {
			return err
		}
		places, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (p Place, err error) {
			var at int64
			err = row.Scan(&p.Group, &p.Topic, &p.Partition, &p.TopicID, &p.Offset, &at)
			p.At = time.Unix(0, at).UTC()
			return p, err
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the places of group %s: %w", group, err)
	}
	return places, nil
}
