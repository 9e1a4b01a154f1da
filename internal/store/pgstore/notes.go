package pgstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

const (
	sqlNote       = `SELECT note FROM notes WHERE name = $1`
	sqlWriteNote  = `INSERT INTO notes (name, note) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET note = excluded.note`
	sqlFirstNote  = `INSERT INTO notes (name, note) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`
	sqlRemoveNote = `DELETE FROM notes WHERE name = $1`
)

// Note returns what is written down under a name; empty when nothing is.
func (s *Store) Note(ctx context.Context, name string) (note string, err error) {
	err = s.try(ctx, kindList, func(ctx context.Context) error {
		err := s.pool.QueryRow(ctx, sqlNote, name).Scan(&note)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("read the note %s: %w", name, err)
	}
	return note, nil
}

// WriteNote writes something down under a name, in the place of what was there.
func (s *Store) WriteNote(ctx context.Context, name, note string) error {
	return s.changeNote(ctx, sqlWriteNote, name, note)
}

// FirstNote writes something down under a name unless something is there, and returns what is there then: of several callers
// all get the note of one.
func (s *Store) FirstNote(ctx context.Context, name, note string) (stored string, err error) {
	if err := s.changeNote(ctx, sqlFirstNote, name, note); err != nil {
		return "", err
	}
	return s.Note(ctx, name)
}

// RemoveNote forgets what is written down under a name.
func (s *Store) RemoveNote(ctx context.Context, name string) error {
	return s.changeNote(ctx, sqlRemoveNote, name)
}

func (s *Store) changeNote(ctx context.Context, sql, name string, note ...any) error {
	err := s.try(ctx, kindList, func(ctx context.Context) error {
		_, err := s.pool.Exec(ctx, sql, append([]any{name}, note...)...)
		return err
	})
	if err != nil {
		return fmt.Errorf("change the note %s: %w", name, err)
	}
	return nil
}
