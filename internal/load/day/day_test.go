package day_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/load/day"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func play(t *testing.T, fault string) (day.Summary, string) {
	t.Helper()
	office, err := day.OpenBackOffice("127.0.0.1:0", signing)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := office.Close(); err != nil {
			t.Error(err)
		}
	})
	ledger := filepath.Join(t.TempDir(), "ledger.jsonl")
	h := startHub(t, office.Address(), ledger, fault)
	var out bytes.Buffer
	s, err := day.Play(t.Context(), &out, day.Config{
		Hub: strings.TrimPrefix(h.public.URL, "http://"), Admin: strings.TrimPrefix(h.side.URL, "http://"), Secret: stripeSecret,
		Office: office, Ledger: ledger, Pace: time.Millisecond, Away: 50 * time.Millisecond, Settle: 500 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, out.String()
}

func TestADayAddsUp(t *testing.T) {
	t.Parallel()
	s, text := play(t, "")
	if len(s.Problems) > 0 {
		t.Errorf("problems: %q", s.Problems)
	}
	if s.Sent < 60 || s.Sent > 100 {
		t.Errorf("%d events are not a day of 60 to 100", s.Sent)
	}
	if s.Duplicates != 1 || s.Refused != 1 || s.Dead != 1 || s.Parked != 0 || s.Accepted != s.Sent-2 {
		t.Errorf("books: %+v", s)
	}
	if s.Delivered+s.Filtered+s.Dead != 3*s.Accepted || s.Ledger != s.Accepted || s.Office.Booked != s.Delivered-s.Ledger || s.Office.Failures < 3 {
		t.Errorf("books: %+v", s)
	}
	for _, want := range []string{
		`(?m)^09:\d\d +invoice\.paid +Nordlicht Verlag +49\.00 EUR +paid-invoices → back office booked it \(200, try 1, .+\) · journal → ledger$`,
		`7800 JPY`, `15\.250 KWD`,
		`duplicate: answered 200`, `refused with 401`, `dead letter: its map asks for customer_email`,
		`try 3`, `charge\.refunded .+money-back → back office booked it`, `It adds up\.`,
		`\d+ sent = \d+ accepted \+ 1 duplicate \+ 1 refused`,
	} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the day does not tell %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Error("colours where none were asked for")
	}
}

func TestADayTellsWhatDoesNotAddUp(t *testing.T) {
	t.Parallel()
	for fault, want := range map[string]string{
		"loss":      "which booked",
		"repeat":    "delivered again",
		"forgery":   "was forged and accepted",
		"signature": "the back office refused",
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			s, text := play(t, fault)
			if !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, want) }) {
				t.Errorf("problems %q do not tell %q", s.Problems, want)
			}
			if strings.Contains(text, "It adds up.") || !strings.Contains(text, "It does not add up: ") {
				t.Errorf("the books say:\n%s", text)
			}
		})
	}
}

func TestADayWithoutAHub(t *testing.T) {
	t.Parallel()
	office, err := day.OpenBackOffice("127.0.0.1:0", signing)
	if err != nil {
		t.Fatal(err)
	}
	address := office.Address()
	if err := office.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = day.Play(t.Context(), new(bytes.Buffer), day.Config{Secret: "x", Office: office, Hub: address, Admin: address})
	if err == nil || !strings.Contains(err.Error(), "read the hub's metrics") {
		t.Errorf("error %v", err)
	}
	if _, err := day.OpenBackOffice("127.0.0.1:0", "whsec_???"); err == nil {
		t.Error("a secret that is not base64 was taken")
	}
}

func TestADayCanBeBrokenOff(t *testing.T) {
	t.Parallel()
	office, err := day.OpenBackOffice("127.0.0.1:0", signing)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = office.Close() }()
	h := startHub(t, office.Address(), filepath.Join(t.TempDir(), "l"), "")
	ctx, cancel := context.WithCancelCause(t.Context())
	tired := errors.New("tired")
	cancel(tired)
	_, err = day.Play(ctx, new(bytes.Buffer), day.Config{
		Hub: strings.TrimPrefix(h.public.URL, "http://"), Admin: strings.TrimPrefix(h.side.URL, "http://"), Secret: stripeSecret, Office: office,
	})
	if !errors.Is(err, context.Canceled) && !errors.Is(err, tired) {
		t.Errorf("error %v", err)
	}
}

func TestNextNamesTheHub(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	day.Next(&out, day.Config{Ledger: "l.jsonl"}, "./bin/tidewire", "deploy/quickstart/tidewire.yaml")
	for _, want := range []string{"http://127.0.0.1:8081/readyz", "tail -n 3 l.jsonl", "./bin/tidewire validate --config deploy/quickstart/tidewire.yaml"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, out.String())
		}
	}
}
