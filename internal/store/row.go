package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode/utf8"

	"github.com/tidewire/tidewire/event"
	"github.com/tidewire/tidewire/pipeline"
)

// Bounds of what strangers may write into a row, in bytes.
const (
	maxReason       = 64
	maxTargetID     = 255
	maxError        = 2 << 10
	maxHistoryError = 512
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Row is a delivery's event and past as columns have them; the body is the event's own.
type Row struct {
	// Attributes are the event's but its body, as a JSON object of strings.
	Attributes string
	// History holds the latest attempts as JSON; empty when there are none.
	History string
	// CRC is over attributes and body.
	CRC int64
}

// EncodeRow writes an event down with a checksum over all of it, so that a damaged one is never delivered.
func EncodeRow(d pipeline.Delivery) (Row, error) {
	_, attributes, body := d.Event.Encode()
	text, err := json.Marshal(attributes)
	if err != nil {
		return Row{}, fmt.Errorf("encode attributes: %w", err)
	}
	return Row{Attributes: string(text), History: EncodeHistory(d.History), CRC: checksum(text, body)}, nil
}

func checksum(attributes, body []byte) int64 {
	return int64(crc32.Update(crc32.Checksum(attributes, castagnoli), castagnoli, body))
}

// errDamaged: the bytes are not those that were written.
var errDamaged = errors.New("the stored event is damaged: its checksum does not match")

// DecodeEvent is the inverse of EncodeRow. An event that was never valid comes back as far as it goes, with an error.
func DecodeEvent(attributes, body []byte, crc int64) (event.Event, error) {
	if checksum(attributes, body) != crc {
		return event.Event{}, errDamaged
	}
	var a map[string]string
	if err := json.Unmarshal(attributes, &a); err != nil {
		return event.Event{}, fmt.Errorf("decode attributes: %w", err)
	}
	return event.Decode(a, body)
}

// EncodeHistory keeps the latest attempts, each error cut to 512 bytes.
func EncodeHistory(h []pipeline.Attempt) string {
	if len(h) == 0 {
		return ""
	}
	kept := make([]pipeline.Attempt, 0, pipeline.HistoryKept)
	for _, a := range h[max(0, len(h)-pipeline.HistoryKept):] {
		a.Error = Clip(a.Error, maxHistoryError)
		kept = append(kept, a)
	}
	text, err := json.Marshal(kept)
	if err != nil {
		return "" // a time outside the calendar; the history is for people, the delivery goes on without
	}
	return string(text)
}

// DecodeHistory is the inverse of EncodeHistory; what cannot be read is no history.
func DecodeHistory(text string) []pipeline.Attempt {
	var h []pipeline.Attempt
	if text == "" || json.Unmarshal([]byte(text), &h) != nil {
		return nil
	}
	return h
}

// Bounded is the outcome with everything cut to what a row may hold: Reason to 64 bytes, TargetID to 255, Error to 2 KiB; UTF-8
// without zero bytes.
func Bounded(o pipeline.Outcome) pipeline.Outcome {
	o.Reason = Clip(o.Reason, maxReason)
	o.TargetID = Clip(o.TargetID, maxTargetID)
	o.Error = Clip(o.Error, maxError)
	return o
}

// Clip cuts s to at most n bytes between characters and makes it UTF-8 without zero bytes, which PostgreSQL refuses.
func Clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
		for i := len(s) - 1; i >= 0 && i >= len(s)-utf8.UTFMax; i-- {
			if utf8.RuneStart(s[i]) {
				if !utf8.FullRuneInString(s[i:]) {
					s = s[:i]
				}
				break
			}
		}
	}
	if strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(s, "\x00", "")
	}
	if utf8.ValidString(s) {
		return s
	}
	return Clip(strings.ToValidUTF8(s, "\uFFFD"), n)
}
