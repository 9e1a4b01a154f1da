package sqlite

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Damage is a place where the file is not as it was written.
type Damage struct {
	File   string
	Offset int64 // in bytes
	// Certain says that committed transactions are lost. Otherwise only the last transaction is broken, which a power
	// failure in the middle of it looks like as well, and then nothing is lost that was answered.
	Certain bool
	Detail  string
}

// Sizes of the write-ahead log's parts; see https://sqlite.org/fileformat.html, "WAL File Format".
const (
	walHeader   = 32
	frameHeader = 24
)

// inspectWAL looks for a frame of the write-ahead log of the file at path that does not add up although frames of the same
// generation (equal salts) follow it. SQLite takes such a frame for the end of the log. A frame that does not
// add up and has nothing of its generation behind it is the normal trace of a crash and no damage.
func inspectWAL(path string) ([]Damage, error) {
	path += "-wal"
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	r := bufio.NewReaderSize(f, 1<<18)
	var head [walHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, nil // shorter than its header: nothing was ever committed to it
	}
	w, ok := newWALReader(head)
	if !ok {
		if info.Size() < walHeader+frameHeader+512 {
			return nil, nil
		}
		return []Damage{{File: path, Certain: true, Detail: fmt.Sprintf("the header of the write-ahead log does not add up, so none of its %d bytes can be read", info.Size())}}, nil
	}
	bad, err := w.scan(r)
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", path, err)
	}
	if bad == nil {
		return nil, nil
	}
	bad.File = path
	return []Damage{*bad}, nil
}

// walReader follows the running checksum of a write-ahead log.
type walReader struct {
	order  binary.ByteOrder
	salts  [8]byte
	s0, s1 uint32
	frame  []byte
}

// newWALReader reports false when the header is not that of a write-ahead log or fails its own checksum.
func newWALReader(head [walHeader]byte) (*walReader, bool) {
	w := &walReader{order: binary.LittleEndian}
	switch binary.BigEndian.Uint32(head[0:]) {
	case 0x377f0682:
	case 0x377f0683:
		w.order = binary.BigEndian
	default:
		return nil, false
	}
	size := binary.BigEndian.Uint32(head[8:])
	if size < 512 || size > 65536 || size&(size-1) != 0 {
		return nil, false
	}
	w.frame = make([]byte, frameHeader+size)
	copy(w.salts[:], head[16:24])
	w.sum(head[:24])
	return w, w.s0 == binary.BigEndian.Uint32(head[24:]) && w.s1 == binary.BigEndian.Uint32(head[28:])
}

func (w *walReader) sum(b []byte) {
	for i := 0; i < len(b); i += 8 {
		w.s0 += w.order.Uint32(b[i:]) + w.s1
		w.s1 += w.order.Uint32(b[i+4:]) + w.s0
	}
}

// scan reads all frames and returns the damage, nil when there is none.
func (w *walReader) scan(r io.Reader) (*Damage, error) {
	bad, later, commits, beyond := -1, 0, 0, false
	for i := 0; ; i++ {
		if _, err := io.ReadFull(r, w.frame); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break
			}
			return nil, err
		}
		ours := [8]byte(w.frame[8:16]) == w.salts
		if bad < 0 {
			w.sum(w.frame[:8])
			w.sum(w.frame[frameHeader:])
			if ours && w.s0 == binary.BigEndian.Uint32(w.frame[16:]) && w.s1 == binary.BigEndian.Uint32(w.frame[20:]) {
				continue
			}
			// From here on the running checksum is lost; only the salts tell. If this frame is of an older generation, so is the rest.
			bad = i
			if ours && binary.BigEndian.Uint32(w.frame[4:]) != 0 {
				commits++
			}
			continue
		}
		if !ours {
			continue
		}
		later++
		// A frame behind a commit was written after that commit had been synced, so what broke before it had been whole.
		beyond = beyond || commits > 0
		if binary.BigEndian.Uint32(w.frame[4:]) != 0 {
			commits++
		}
	}
	if later == 0 {
		return nil, nil
	}
	d := &Damage{Offset: walHeader + int64(bad)*int64(len(w.frame)), Certain: beyond}
	what := "the last transaction is broken: either it was cut short by a power failure before it was answered, or the file was altered"
	if beyond {
		what = "committed transactions from here on cannot be read"
	}
	d.Detail = fmt.Sprintf("frame %d fails its checksum and %d frames of the same generation follow; %s", bad+1, later, what)
	return d, nil
}
