package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewire/tidewire/internal/store"
	"github.com/tidewire/tidewire/pipeline"
)

// ErrDiffers says that what was carried is not what was found.
var ErrDiffers = errors.New("what was carried is not what was found")

// MoveOptions say how ToCluster goes about it.
type MoveOptions struct {
	// DataDir is the folder that holds the embedded hub's file. Default: the config's data_dir.
	DataDir string
	Logger  *slog.Logger
	// Confirm is asked whether to go on, when it is known what there is and before anything is written to the cluster. Its error ends the move. nil: go on.
	Confirm func(Move) error
	// Progress is told what is being carried, and how many of all rows and records are; nil: nobody is. It is called by one goroutine at a time.
	Progress func(what string, done, total int64)

	batch int // records that are published and noted at once; 0: moveRecords
}

// Move is what came of moving an embedded installation into a cluster, or what has to be done.
type Move struct {
	// File is the embedded hub's file, Target the cluster.
	File   string `json:"file"`
	Target string `json:"target"`
	// Resumed: it began earlier and was interrupted.
	Resumed bool `json:"resumed"`
	// Finished is when everything was in the cluster; zero when it is not.
	Finished time.Time `json:"finished,omitzero"`
	// Already: it was finished before this call, which did nothing.
	Already bool    `json:"already"`
	Counts  []Count `json:"counts"`
}

// Count is how many there are of one kind of thing.
type Count struct {
	What string `json:"what"`
	// Found in the file, and Carried: counted in the cluster.
	Found   int64 `json:"found"`
	Carried int64 `json:"carried"`
	// Damaged are those among Found that cannot be read as they were written, and stay behind.
	Damaged int64 `json:"damaged"`
	// Repeated are in the log a second time because an interruption left open whether they were there. Routes take one of the two.
	Repeated int64 `json:"repeated"`
}

// Names of what is counted.
const (
	countLedger = "ledger entries"
	countParked = "parked deliveries"
	countDead   = "dead letters"
	countEvents = "events"
	countTopics = "dead-letter topic records"
)

// ToCluster carries what an embedded hub's file holds into the cluster of the plan's config: the ledger, parked deliveries and dead letters into PostgreSQL, then the
// events that some route has not finished and all records of the dead-letter topics into Kafka, and sets where each route goes on. The file is opened as a hub
// opens it, and nothing is written to it beyond what a hub's start writes. Called again after an interruption it goes on where it was; called again when it is finished it does nothing.
//
// It is refused (ErrEnvironment) while hubs run on the file or on the cluster, and when the cluster holds anything that is not from this move. ErrDiffers comes with
// the counts; when Finished is set, damage in the file is the reason, and hubs may start.
func ToCluster(ctx context.Context, plan *Plan, o MoveOptions) (_ Move, err error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	o.batch = cmp.Or(o.batch, moveRecords)
	// A hub without doors: it has what opens the two halves of a cluster, and the list of what to close.
	h := &hub{plan: plan, logger: o.Logger, registry: prometheus.NewRegistry()}
	defer func() { err = errors.Join(err, h.close()) }()
	m := &move{o: o, plan: plan}
	if m.from, err = h.openSource(ctx, o.DataDir); err != nil {
		return Move{}, err
	}
	if err := m.openTarget(ctx, h); err != nil {
		return Move{}, err
	}
	return m.run(ctx)
}

// move is a move under way.
type move struct {
	o    MoveOptions
	plan *Plan
	from *source
	to   *cluster

	note      moveNote
	stretches []*stretch
	done      int64
	total     int64
}

func (m *move) openTarget(ctx context.Context, h *hub) error {
	m.to = &cluster{name: "migrate-" + rand.Text()[:8], plan: h.plan, keep: h.plan.Config.Retention, routes: h.plan.Routes, logger: h.logger}
	m.to.prepareStore(h)
	if err := m.to.prepareKafka(h); err != nil {
		return err
	}
	if err := m.to.openStore(ctx); err != nil {
		return err
	}
	if err := m.to.openKafka(ctx); err != nil {
		return err
	}
	target, err := m.to.identity(ctx, h.plan.Config.Cluster.Kafka)
	if err != nil {
		return err
	}
	source, err := m.from.fingerprint(ctx)
	if err != nil {
		return fmt.Errorf("%w: look at %s: %w", ErrEnvironment, m.from.path, err)
	}
	m.note = moveNote{File: m.from.path, Source: source, Target: target, Routes: routesFingerprint(h.plan.Routes)}
	return nil
}

func (m *move) run(ctx context.Context) (Move, error) {
	resumed, err := m.recall(ctx)
	if err != nil {
		return Move{}, err
	}
	result := Move{File: m.from.path, Target: m.note.Target, Resumed: resumed, Finished: m.note.Finished, Counts: m.note.Counts}
	if result.Already = !m.note.Finished.IsZero(); result.Already {
		return result, nil
	}
	if err := m.unused(ctx); err != nil {
		return Move{}, err
	}
	if err := m.survey(ctx); err != nil {
		return Move{}, err
	}
	if !resumed {
		if err := m.empty(ctx); err != nil {
			return Move{}, err
		}
	}
	result.Counts = m.note.Counts
	if m.o.Confirm != nil {
		if err := m.o.Confirm(result); err != nil {
			return Move{}, err
		}
	}
	if err := m.begin(ctx, resumed); err != nil {
		return Move{}, err
	}
	for _, step := range []func(context.Context) error{m.ensure, m.carryStore, m.carryTopics} {
		if err := step(ctx); err != nil {
			return result, err
		}
	}
	differs, err := m.compare(ctx)
	result.Counts = m.note.Counts
	if err != nil {
		return result, err
	}
	m.note.Finished = time.Now().UTC()
	if err := m.write(ctx); err != nil {
		return result, err
	}
	result.Finished = m.note.Finished
	return result, differs
}

// moveKey is the name of the note on a move; each topic has one of its own behind it.
const moveKey = "move to cluster"

// moveNote is what is written down of a move in the cluster's store.
type moveNote struct {
	File string `json:"file"`
	// Source tells one state of a file from every other, Target the Kafka cluster, Routes what the config says of routes.
	Source string `json:"source"`
	Target string `json:"target"`
	Routes string `json:"routes"`
	// Imported: the store's part is in.
	Imported bool      `json:"imported"`
	Finished time.Time `json:"finished,omitzero"`
	Counts   []Count   `json:"counts"`
}

func (n *moveNote) count(what string) *Count {
	i := slices.IndexFunc(n.Counts, func(c Count) bool { return c.What == what })
	return &n.Counts[i]
}

func readMoveNote(ctx context.Context, c *cluster) (n moveNote, found bool, err error) {
	text, err := c.store.Note(ctx, moveKey)
	if err != nil || text == "" {
		return n, false, err
	}
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		return n, false, fmt.Errorf("the note on the migration cannot be read: %w", err)
	}
	return n, true, nil
}

func (m *move) write(ctx context.Context) error {
	text, err := json.Marshal(m.note)
	if err != nil {
		return err
	}
	return m.to.store.WriteNote(ctx, moveKey, string(text))
}

// recall looks whether a move was begun, and whether it was this one.
func (m *move) recall(ctx context.Context) (resumed bool, err error) {
	n, found, err := readMoveNote(ctx, m.to)
	if err != nil || !found {
		return false, err
	}
	state := "a migration that is not finished"
	if !n.Finished.IsZero() {
		state = "a migration that was finished at " + n.Finished.Format(time.RFC3339)
	}
	const anew = "to begin anew, drop the tables (schema tidewire) and the topics, or name another database and another topic_prefix"
	switch {
	case n.Source != m.note.Source:
		return false, fmt.Errorf("%w: the cluster holds %s, of %s as it was then: this is another file, or a hub has run on it since; %s", ErrEnvironment, state, n.File, anew)
	case n.Target != m.note.Target:
		return false, fmt.Errorf("%w: the database holds %s, into %s, and the config names %s: name the same again; %s", ErrEnvironment, state, n.Target, m.note.Target, anew)
	case n.Finished.IsZero() && n.Routes != m.note.Routes:
		return false, fmt.Errorf("%w: the routes are not those of the config that the migration began with: finish it with that one, then change the config", ErrEnvironment)
	}
	m.note = n
	return true, nil
}

// unused refuses a cluster on which hubs run.
func (m *move) unused(ctx context.Context) error {
	hubs, err := m.to.store.Hubs(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEnvironment, err)
	}
	if len(hubs) > 0 {
		return fmt.Errorf("%w: hub %s runs on the cluster: stop all its hubs first (one that was killed is forgotten after half a minute)", ErrEnvironment, hubs[0].Instance)
	}
	return nil
}

// empty refuses a cluster that holds anything.
func (m *move) empty(ctx context.Context) error {
	balance, err := m.to.store.Balance(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEnvironment, err)
	}
	if len(balance) > 0 {
		return fmt.Errorf("%w: the cluster's store has deliveries of route %s already: an installation is carried into an empty cluster only", ErrEnvironment, slices.Sorted(maps.Keys(balance))[0])
	}
	for _, topic := range m.topics() {
		n, err := m.held(ctx, topic)
		if err != nil {
			return fmt.Errorf("%w: cluster.kafka: %w", ErrEnvironment, err)
		}
		if n > 0 {
			return fmt.Errorf("%w: the topic %s%s holds %d records already: an installation is carried into an empty cluster only; name another topic_prefix, or delete the topic",
				ErrEnvironment, m.plan.Config.Cluster.Kafka.TopicPrefix, topic, n)
		}
	}
	return nil
}

// begin writes down that a move is under way: from then on no hub starts on the cluster.
func (m *move) begin(ctx context.Context, resumed bool) error {
	if resumed {
		return nil
	}
	text, err := json.Marshal(m.note)
	if err != nil {
		return err
	}
	stored, err := m.to.store.FirstNote(ctx, moveKey, string(text))
	if err != nil {
		return err
	}
	if stored != string(text) {
		return fmt.Errorf("%w: another migration into this cluster has begun just now", ErrEnvironment)
	}
	// A hub says that it is there before it looks for the note.
	if err := m.unused(ctx); err != nil {
		return errors.Join(err, m.to.store.RemoveNote(ctx, moveKey))
	}
	return nil
}

// carryStore brings ledger, parked deliveries and dead letters over. They go first: a route that meets an event again must find what became of it.
func (m *move) carryStore(ctx context.Context) error {
	if m.note.Imported {
		m.done += m.note.count(countLedger).Found + m.note.count(countParked).Found + m.note.count(countDead).Found
		return nil
	}
	damaged := int64(0)
	rows := func(yield func(store.Carried, error) bool) {
		for row, err := range m.from.store.Export(ctx) {
			if err == nil {
				if row.Fault != nil && row.Outcome.State == pipeline.Parked {
					damaged++
				}
				if m.done++; m.done%100 == 1 {
					m.o.Progress(countOf(row.Outcome.State), m.done, m.total)
				}
			}
			if !yield(row, err) {
				return
			}
		}
	}
	if _, err := m.to.store.Import(ctx, rows); err != nil {
		return fmt.Errorf("carry the ledger: %w", err)
	}
	if damaged > 0 {
		m.o.Logger.Warn("parked deliveries whose events are damaged are dead letters now", "deliveries", damaged)
		m.note.count(countParked).Found -= damaged
		m.note.count(countDead).Found += damaged
	}
	m.note.Imported = true
	return m.write(ctx)
}

func countOf(s pipeline.State) string {
	switch s {
	case pipeline.Parked:
		return countParked
	case pipeline.Dead:
		return countDead
	case pipeline.Delivered, pipeline.Skipped:
	}
	return countLedger
}

// compare counts what is in the cluster now. differs is what the counts say when nothing more can be done about it; an error, that the move is not finished.
func (m *move) compare(ctx context.Context) (differs, err error) {
	balance, err := m.to.store.Balance(ctx)
	if err != nil {
		return nil, err
	}
	for i := range m.note.Counts {
		m.note.Counts[i].Carried, m.note.Counts[i].Damaged, m.note.Counts[i].Repeated = 0, 0, 0
	}
	for _, states := range balance {
		for state, n := range states {
			m.note.count(countOf(state)).Carried += n
		}
	}
	for _, s := range m.stretches {
		if err := m.compareTopic(ctx, s); err != nil {
			return nil, err
		}
	}
	var damaged int64
	for _, c := range m.note.Counts {
		damaged += c.Damaged
		if c.Found != c.Carried+c.Damaged {
			return nil, fmt.Errorf("%w: %s: %d found, %d carried, %d damaged; the migration is not finished, the file is as it was", ErrDiffers, c.What, c.Found, c.Carried, c.Damaged)
		}
	}
	if damaged > 0 {
		differs = fmt.Errorf("%w: %d records are damaged in the file and stay behind, as a hub would have passed over them; everything else is carried and the migration is finished",
			ErrDiffers, damaged)
	}
	return differs, nil
}

// refuseHalfMoved keeps a hub from a cluster into which an installation is being carried.
func (c *cluster) refuseHalfMoved(ctx context.Context) error {
	n, found, err := readMoveNote(ctx, c)
	if err != nil {
		return fmt.Errorf("%w: cluster.postgres: %w", ErrEnvironment, err)
	}
	if found && n.Finished.IsZero() {
		return fmt.Errorf("%w: the cluster holds half of an installation: a migration from %s is not finished; let it finish, or run 'tidewire migrate to-cluster' again where that file is", ErrEnvironment, n.File)
	}
	return nil
}

// exists says with one sentence why there is no embedded installation at a path.
func exists(path string) error {
	if _, err := os.Stat(path); err != nil {
		if os.IsNotExist(err) {
			return fmt.Errorf("%w: there is no %s: name the folder of the embedded hub's file with --data-dir", ErrEnvironment, path)
		}
		return fmt.Errorf("%w: %w", ErrEnvironment, err)
	}
	return nil
}
