package kafkalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/findcoordinator"
	"github.com/segmentio/kafka-go/protocol/offsetcommit"
)

// commitRequest is an OffsetCommit request that knows its broker. That of kafka-go looks for the coordinator each time; and
// Generation.CommitOffsets shares a connection with the heartbeats, on which two requests that wait at the same time do so in a loop that takes a whole core.
type commitRequest struct {
	GroupID         string                      `kafka:"min=v0,max=v7"`
	GenerationID    int32                       `kafka:"min=v1,max=v7"`
	MemberID        string                      `kafka:"min=v1,max=v7"`
	RetentionTimeMs int64                       `kafka:"min=v2,max=v4"`
	GroupInstanceID string                      `kafka:"min=v7,max=v7,nullable"`
	Topics          []offsetcommit.RequestTopic `kafka:"min=v0,max=v7"`

	coordinator int32
}

func (*commitRequest) ApiKey() protocol.ApiKey { return protocol.OffsetCommit }

func (*commitRequest) TypeKey() protocol.OverrideTypeKey { return 1 }

// Broker names the coordinator.
func (r *commitRequest) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	if b, ok := cluster.Brokers[r.coordinator]; ok {
		return b, nil
	}
	return protocol.Broker{ID: -1}, kafka.GroupCoordinatorNotAvailable
}

// noCoordinator says that a generation has yet to find its coordinator.
const noCoordinator = -1

// write commits places as a member of the generation. The coordinator refuses it when the generation has ended.
func (g *generation) write(ctx context.Context, places map[partition]int64) error {
	c := g.s.l.client
	group := c.wire(g.s.c.Group)
	if g.coordinator == noCoordinator {
		m, err := c.roundTrip(ctx, &findcoordinator.Request{Key: group})
		if err != nil {
			return err
		}
		res := m.(*findcoordinator.Response)
		if err := code(res.ErrorCode, res.ErrorMessage); err != nil {
			return err
		}
		g.coordinator = res.NodeID
	}
	req := &commitRequest{
		GroupID: group, GenerationID: g.gen.ID, MemberID: g.gen.MemberID, RetentionTimeMs: -1, coordinator: g.coordinator,
	}
	ps := make([]partition, 0, len(places))
	for p := range places {
		ps = append(ps, p)
	}
	slices.SortFunc(ps, compare)
	for _, p := range ps {
		topic := c.wire(p.topic)
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Name != topic {
			req.Topics = append(req.Topics, offsetcommit.RequestTopic{Name: topic})
		}
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, offsetcommit.RequestPartition{
			PartitionIndex: p.number, CommittedOffset: places[p], CommittedLeaderEpoch: -1,
		})
	}
	m, err := c.roundTrip(ctx, req)
	if err != nil {
		g.coordinator = noCoordinator
		return err
	}
	for _, t := range m.(*offsetcommit.Response).Topics {
		for _, p := range t.Partitions {
			if err := code(p.ErrorCode, ""); err != nil {
				if !g.fenced(err) {
					g.coordinator = noCoordinator // it may be another one by now
				}
				return fmt.Errorf("partition %d of %s: %w", p.PartitionIndex, t.Name, err)
			}
		}
	}
	return nil
}
