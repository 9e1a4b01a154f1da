package pgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Lease is who holds a name, and until when by the database's clock.
type Lease struct {
	Name, Holder string
	Until        time.Time
}

// Lease takes a name for this instance, or renews it, for d from now by the database's clock. held is false while another instance holds it. Who has
// had no answer before d is over, counted from the call, must take the lease for lost.
func (s *Store) Lease(ctx context.Context, name string, d time.Duration) (held bool, err error) {
	err = s.try(ctx, kindLease, func(ctx context.Context) error {
		tag, err := s.pool.Exec(ctx, sqlLease, name, s.instance, d)
		held = tag.RowsAffected() == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("lease %s: %w", name, err)
	}
	return held, nil
}

// Release gives a name up, so that others need not wait for its end. A name that this instance does not hold is left alone.
func (s *Store) Release(ctx context.Context, name string) error {
	err := s.try(ctx, kindLease, func(ctx context.Context) error {
		_, err := s.pool.Exec(ctx, sqlRelease, name, s.instance)
		return err
	})
	if err != nil {
		return fmt.Errorf("release %s: %w", name, err)
	}
	return nil
}

// Leases lists the names that are held, in order.
func (s *Store) Leases(ctx context.Context) (leases []Lease, err error) {
	err = s.try(ctx, kindLease, func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, sqlLeases)
		if err != nil {
			return err
		}
		leases, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Lease])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	return leases, nil
}

// HubExpiry is how long a hub counts as running after its last sign of life: Beat should be called several times within it.
const HubExpiry = 30 * time.Second

// Hub is one running hub.
type Hub struct {
	Instance string
	// Config is the fingerprint it joined with.
	Config string
	// Started is when it joined, Seen its last sign of life, by the database's clock.
	Started, Seen time.Time
}

// Join adds this hub to those that run, under a name and with the fingerprint of what all hubs must have in common. While a hub with another fingerprint is running it
// fails and says which: those who run have the say. A hub that was killed is in the way until HubExpiry has passed, unless it comes back under its own name.
func (s *Store) Join(ctx context.Context, instance, fingerprint string) error {
	s.membership.Lock()
	defer s.membership.Unlock()
	if err := s.join(ctx, instance, fingerprint); err != nil {
		return fmt.Errorf("join the running hubs as %s: %w", instance, err)
	}
	s.joined, s.config = instance, fingerprint
	return nil
}

func (s *Store) join(ctx context.Context, instance, fingerprint string) error {
	return s.try(ctx, kindLease, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, lockKey("tidewire hubs", s.schema)); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, sqlExpireHubs, HubExpiry); err != nil {
				return err
			}
			var other, theirs string
			switch err := tx.QueryRow(ctx, sqlOtherHub, instance, fingerprint).Scan(&other, &theirs); {
			case err == nil:
				return fmt.Errorf("hub %s runs with another cluster configuration (%s, this one has %s): give all hubs the same, or stop the others first", other, theirs, fingerprint)
			case !errors.Is(err, pgx.ErrNoRows):
				return err
			}
			_, err := tx.Exec(ctx, sqlJoin, instance, s.run, fingerprint)
			return err
		})
	})
}

// Beat is a sign of life. It fails when another hub has taken this one's name. A hub that was silent for longer than HubExpiry joins again, which fails when others with another fingerprint
// have begun to run since. Without Join it does nothing.
func (s *Store) Beat(ctx context.Context) error {
	s.membership.Lock()
	defer s.membership.Unlock()
	if s.joined == "" {
		return nil
	}
	var alive, taken bool
	err := s.try(ctx, kindLease, func(ctx context.Context) error {
		tag, err := s.pool.Exec(ctx, sqlBeat, s.joined, s.run)
		if alive = tag.RowsAffected() == 1; err != nil || alive {
			return err
		}
		return s.pool.QueryRow(ctx, sqlTaken, s.joined, s.run).Scan(&taken)
	})
	switch {
	case err != nil:
		return fmt.Errorf("give a sign of life as %s: %w", s.joined, err)
	case alive:
		return nil
	case taken:
		return fmt.Errorf("another hub runs under the name %s: give each hub an instance name of its own", s.joined)
	}
	if err := s.join(ctx, s.joined, s.config); err != nil {
		return fmt.Errorf("join the running hubs again as %s: %w", s.joined, err)
	}
	return nil
}

// leave takes this hub off the list.
func (s *Store) leave(ctx context.Context) {
	s.membership.Lock()
	defer s.membership.Unlock()
	if s.joined == "" {
		return
	}
	if _, err := s.pool.Exec(ctx, sqlLeave, s.joined, s.run); err != nil {
		s.log.Warn("this hub could not be taken off the list of hubs; it goes by itself", "error", err)
	}
	s.joined = ""
}

// Hubs lists the hubs that gave a sign of life within HubExpiry, in order of their names.
func (s *Store) Hubs(ctx context.Context) (hubs []Hub, err error) {
	err = s.try(ctx, kindLease, func(ctx context.Context) error {
		rows, err := s.pool.Query(ctx, sqlHubs, HubExpiry)
		if err != nil {
			return err
		}
		hubs, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Hub])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list hubs: %w", err)
	}
	return hubs, nil
}
