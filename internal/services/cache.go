package services

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// ErrMissing is wrapped by errors that say what has to be installed on this machine, or what could not be downloaded.
var ErrMissing = errors.New("not on this machine")

// cached is the folder NAME in Tidewire's cache, filled once. Of several processes that want it at the same time one fills it and the others wait. What fill
// leaves behind when it fails is removed, so that the folder is complete whenever it is there.
func cached(ctx context.Context, name string, fill func(dir string) error) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%w: a folder for downloads (set XDG_CACHE_HOME or HOME): %w", ErrMissing, err)
	}
	base = filepath.Join(base, "tidewire")
	final := filepath.Join(base, name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(base, 0o755); err != nil { //nolint:gosec // nothing in it is secret
		return "", fmt.Errorf("%w: a folder for downloads: %w", ErrMissing, err)
	}
	lock := flock.New(filepath.Join(base, name+".lock"))
	if _, err := lock.TryLockContext(ctx, 200*time.Millisecond); err != nil {
		return "", fmt.Errorf("wait for another process that downloads %s: %w", name, err)
	}
	defer func() { _ = lock.Close() }()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	for _, left := range abandoned(base, name) { // by a process that was killed
		_ = os.RemoveAll(left)
	}
	temp, err := os.MkdirTemp(base, name+".part-*")
	if err != nil {
		return "", fmt.Errorf("a folder for downloads: %w", err)
	}
	defer func() { _ = os.RemoveAll(temp) }()
	if err := os.Chmod(temp, 0o755); err != nil { //nolint:gosec // as above
		return "", fmt.Errorf("a folder for downloads: %w", err)
	}
	if err := fill(temp); err != nil {
		return "", err
	}
	if err := os.Rename(temp, final); err != nil {
		return "", fmt.Errorf("a folder for downloads: %w", err)
	}
	return final, nil
}

// abandoned are half-filled folders; whoever asks holds the lock, so that nobody is filling them.
func abandoned(base, name string) []string {
	found, _ := filepath.Glob(filepath.Join(base, name+".part-*")) // the pattern is good
	return found
}
