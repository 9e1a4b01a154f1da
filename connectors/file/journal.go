package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// journal is the file on the disk. Not safe for concurrent use.
type journal struct {
	path        string
	rotateSize  int64
	rotateEvery time.Duration
	keep        int
	log         *slog.Logger

	file   *os.File // nil until the first append, and again after a failure
	size   int64
	last   time.Time // of the last write, by the file's own account when it was opened
	closed bool
}

// append adds whole lines, which are on the disk when it returns nil. After an error none of them counts as written.
func (j *journal) append(lines []byte, now time.Time) error {
	if j.closed {
		return fmt.Errorf("append to %s: %w", j.path, os.ErrClosed)
	}
	err := j.ready(now)
	if err == nil {
		err = j.write(lines, now)
	}
	if err == nil {
		return nil
	}
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		err = fmt.Errorf("%w; free some space, or set rotate_size and keep", err)
	case errors.Is(err, os.ErrPermission):
		err = fmt.Errorf("%w; the hub's user needs the right to write there", err)
	}
	return fmt.Errorf("append to %s: %w", j.path, err)
}

// ready makes sure that the open file is the one that path names and that it is not due for rotation.
func (j *journal) ready(now time.Time) error {
	if j.file != nil && j.moved() {
		j.drop() // another program has renamed or removed it
	}
	if j.file == nil {
		if err := j.open(); err != nil {
			return err
		}
	}
	if j.size > 0 && (j.rotateSize > 0 && j.size >= j.rotateSize || j.rotateEvery > 0 && !now.Truncate(j.rotateEvery).Equal(j.last.Truncate(j.rotateEvery))) {
		if err := j.rotate(now); err != nil {
			return err
		}
		return j.open()
	}
	return nil
}

func (j *journal) moved() bool {
	here, err := os.Lstat(j.path)
	if err != nil {
		return true
	}
	open, err := j.file.Stat()
	return err != nil || !os.SameFile(here, open)
}

func (j *journal) drop() {
	if j.file != nil {
		j.file.Close() // what counts has been synced, and the rest is told as failed
		j.file = nil
	}
}

// open opens or makes the file, locks it, and cuts off a line that a crash left unfinished.
func (j *journal) open() error {
	if err := makeFolder(filepath.Dir(j.path)); err != nil {
		return err
	}
	// O_NONBLOCK so that a FIFO in the file's place is refused below and not waited for.
	f, err := os.OpenFile(j.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return errors.New("it is a symbolic link, which is not followed; name the file itself")
	}
	if err != nil {
		return err
	}
	if err := j.adopt(f); err != nil {
		f.Close()
		return err
	}
	j.file = f
	return nil
}

// adopt judges an open file and takes it over.
func (j *journal) adopt(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := ordinary(info); err != nil {
		return err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another connection or program writes to it: %w", err)
	}
	j.size, j.last = info.Size(), info.ModTime()
	if err := j.repair(f); err != nil {
		return err
	}
	return syncFolder(j.path)
}

// ordinary refuses what only looks like a file of ours.
func ordinary(info os.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("it is not an ordinary file (%s)", info.Mode().Type())
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Nlink > 1 {
		return errors.New("it has more than one name (hard links); writing would change another file as well")
	}
	return nil
}

// opening is how each of our lines starts.
var opening = []byte(`{"id":"`)

// repair cuts the file back to its last whole line. What is cut was never reported as delivered, so it comes again. Anything that is not the start of one of our
// lines is left alone: the path may be wrong.
func (j *journal) repair(f *os.File) error {
	at, err := lastLine(f, j.size)
	if err != nil || at == j.size {
		return err
	}
	start := make([]byte, min(j.size-at, int64(len(opening))))
	if _, err := f.ReadAt(start, at); err != nil {
		return err
	}
	if !bytes.HasPrefix(opening, start) && len(bytes.Trim(start, "\x00")) > 0 { // zeros: space that was given and never written
		return errors.New("it does not end in a line break and its last line is not one of ours; move it away or name another file")
	}
	if err := f.Truncate(at); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	j.log.Warn("cut off an unfinished line that a crash had left; its event is delivered again", "file", j.path, "bytes", j.size-at)
	j.size = at
	return nil
}

// lastLine is the offset after the last line break, looking backwards from size.
func lastLine(f io.ReaderAt, size int64) (int64, error) {
	const block = 64 << 10
	b := make([]byte, block)
	for end := size; end > 0; {
		start := max(0, end-block)
		part := b[:end-start]
		if _, err := f.ReadAt(part, start); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return start + int64(i) + 1, nil
		}
		end = start
	}
	return 0, nil
}

// write appends and syncs. When it fails, what was written is cut off again as far as that is possible, and the file is opened anew next time: after a failed
// fsync the kernel may forget what it could not write, so nothing that this descriptor says can be believed.
func (j *journal) write(lines []byte, now time.Time) error {
	_, err := j.file.Write(lines)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		if terr := j.file.Truncate(j.size); terr != nil {
			j.log.Warn("a failed write could not be taken back; the file may hold lines that are delivered again", "file", j.path, "error", terr)
		}
		j.drop()
		return err
	}
	j.size += int64(len(lines))
	j.last = now
	return nil
}

// stamp is put before the extension of rotated files: sorts by name as by time.
const stamp = "20060102T150405.000000000Z"

// rotate gives the file its final name and removes the oldest beyond keep.
func (j *journal) rotate(now time.Time) error {
	var to string
	for at := now.UTC(); ; at = at.Add(1) { // never over a file that is there
		to = j.stem() + at.Format(stamp) + filepath.Ext(j.path)
		if _, err := os.Lstat(to); gone(err) {
			break
		} else if err != nil {
			return err
		}
	}
	if err := os.Rename(j.path, to); err != nil {
		return err
	}
	j.drop()
	if err := syncFolder(j.path); err != nil {
		return err
	}
	j.prune()
	return nil
}

// stem is what the names of rotated files start with.
func (j *journal) stem() string { return strings.TrimSuffix(j.path, filepath.Ext(j.path)) + "-" }

// prune removes the oldest rotated files. Failing is no reason not to deliver: it is said, and tried again next time.
func (j *journal) prune() {
	if j.keep == 0 {
		return
	}
	entries, err := os.ReadDir(filepath.Dir(j.path))
	if err != nil {
		j.log.Warn("old files could not be listed", "file", j.path, "error", err)
		return
	}
	var old []string
	for _, e := range entries {
		if name := e.Name(); e.Type().IsRegular() && j.rotated(name) {
			old = append(old, name)
		}
	}
	slices.Sort(old)
	for _, name := range old[:max(0, len(old)-j.keep)] {
		if err := os.Remove(filepath.Join(filepath.Dir(j.path), name)); err != nil {
			j.log.Warn("an old file could not be removed", "file", name, "error", err)
		}
	}
}

// rotated reports whether name is one that rotate gives; nothing else is ever removed.
func (j *journal) rotated(name string) bool {
	rest, ok := strings.CutPrefix(name, filepath.Base(j.stem()))
	if !ok {
		return false
	}
	rest, ok = strings.CutSuffix(rest, filepath.Ext(j.path))
	if !ok {
		return false
	}
	_, err := time.Parse(stamp, rest)
	return err == nil && len(rest) == len(stamp)
}

// makeFolder is MkdirAll, durably: a file is lost with its folder.
func makeFolder(folder string) error {
	if _, err := os.Stat(folder); !gone(err) {
		return err
	}
	if err := makeFolder(filepath.Dir(folder)); err != nil {
		return err
	}
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return syncFolder(folder)
}

// syncFolder makes the name path durable.
func syncFolder(path string) error {
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writable is Check: the file, or else the nearest folder that is there.
func (j *journal) writable() error {
	info, err := os.Lstat(j.path)
	if err == nil {
		if info.Mode()&os.ModeSymlink != 0 {
			return fmt.Errorf("%s is a symbolic link, which is not followed; name the file itself", j.path)
		}
		if err := ordinary(info); err != nil {
			return fmt.Errorf("%s: %w", j.path, err)
		}
		return allowed(j.path)
	}
	if !gone(err) {
		return err
	}
	for folder := filepath.Dir(j.path); ; folder = filepath.Dir(folder) {
		switch info, err := os.Stat(folder); {
		case err == nil && !info.IsDir():
			return fmt.Errorf("%s is not a folder", folder)
		case err == nil:
			return allowed(folder)
		case !gone(err) || folder == filepath.Dir(folder):
			return err
		}
	}
}

// allowed asks the kernel for the right to write.
func allowed(path string) error {
	const write = 2 // W_OK
	if err := syscall.Access(path, write); err != nil {
		return fmt.Errorf("%s cannot be written: %w; the hub's user needs the right to", path, err)
	}
	return nil
}

func (j *journal) close() error {
	j.closed = true
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}
