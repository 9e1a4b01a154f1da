package sqlite

import (
	"errors"
	"fmt"
	"syscall"

	zsqlite "zombiezen.com/go/sqlite"
)

// explain turns an error of SQLite's into one that says which file and what to do, and that errors.Is can tell.
func (db *DB) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	code := zsqlite.ErrCode(err)
	switch {
	case isFull(err):
		return fmt.Errorf("%s %s: %w; free some space, writing goes on by itself: %w", doing, db.o.Path, ErrFull, err)
	case IsDamage(err):
		return fmt.Errorf("%s %s: %w; restore it from a backup, or move it away to start anew: %w", doing, db.o.Path, ErrDamaged, err)
	case code.ToPrimary() == zsqlite.ResultIOErr:
		return fmt.Errorf("%s %s: %w; check the disk, then start again: %w", doing, db.o.Path, ErrFailed, err)
	}
	return fmt.Errorf("%s %s: %w", doing, db.o.Path, err)
}

// IsDamage reports whether err says that a part of the file does not make sense. Other parts may be intact.
func IsDamage(err error) bool {
	if errors.Is(err, ErrDamaged) {
		return true
	}
	switch zsqlite.ErrCode(err).ToPrimary() {
	case zsqlite.ResultCorrupt, zsqlite.ResultNotADB:
		return true
	}
	return false
}

// isFull reports whether the disk had no room. The index of the write-ahead log is a memory-mapped file that SQLite grows
// itself, and it reports a full disk there as an I/O error of its own kind.
func isFull(err error) bool {
	if errors.Is(err, ErrFull) || errors.Is(err, syscall.ENOSPC) {
		return true
	}
	code := zsqlite.ErrCode(err)
	return code.ToPrimary() == zsqlite.ResultFull || code == zsqlite.ResultIOErrSHMSize
}

// isFatal reports whether err leaves unknown what is on disk.
func isFatal(err error) bool {
	return !isFull(err) && zsqlite.ErrCode(err).ToPrimary() == zsqlite.ResultIOErr
}
