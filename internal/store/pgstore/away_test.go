package pgstore_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tidewire/tidewire/pipeline"
)

// TestCloseDoesNotWaitForAServerThatDoesNotAnswer has a table locked, so that what is to be written waits: the hub has to be gone long before a statement is given up.
func TestCloseDoesNotWaitForAServerThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := openStore(t, c)
	mustSettle(t, s, dealt("k", 1), outcome(pipeline.Delivered))
	conn, err := pgx.Connect(t.Context(), shared.url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `LOCK TABLE `+c.Schema+`.deliveries IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	// Its caller has gone, the statement has not.
	hasty, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Settle(hasty, dealt("k", 2), outcome(pipeline.Delivered)); err == nil {
		t.Fatal("it was settled in a table that is locked")
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(12 * time.Second): // a statement is given up after 20 s
		t.Error("Close waits for the server")
		if err := tx.Rollback(t.Context()); err != nil {
			t.Error(err)
		}
		<-closed
	}
}
