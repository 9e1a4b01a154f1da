package load_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
)

func TestStripeTypesAreAHundred(t *testing.T) {
	t.Parallel()
	types := load.StripeTypes()
	sorted := slices.Compact(slices.Sorted(slices.Values(types)))
	if len(types) != 100 || len(sorted) != 100 || types[0] != "invoice.paid" {
		t.Errorf("%d types, %d of them different, the first %q", len(types), len(sorted), types[0])
	}
}

func TestStripeBodyIsAnEvent(t *testing.T) {
	t.Parallel()
	id := load.ID{Source: "a1", Key: 42, Seq: 1234}
	for _, typ := range load.StripeTypes() {
		body := load.StripeBody(id, typ, 1_700_000_000, 0)
		if n := len(body); n < 1000 || n > 1050 {
			t.Errorf("%s: %d bytes, want about 1024", typ, n)
		}
		var e struct {
			ID, Type string
			Created  int64
			Data     struct {
				Object struct {
					ID, Object, Customer string
					Created              int64
				}
			}
		}
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatalf("%s: %v\n%s", typ, err, body)
		}
		o := e.Data.Object
		if e.ID != id.String() || e.Type != typ || e.Created != 1_700_000_000 || o.Created != e.Created {
			t.Errorf("%s: %+v", typ, e)
		}
		customer := "cus_a1000042"
		if o.Object == "customer" && o.ID != customer || o.Object != "customer" && (o.Customer != customer || !strings.HasSuffix(o.ID, "_a100004200001234")) {
			t.Errorf("%s: customer %q, object %q", typ, o.Customer, o.ID)
		}
		if !strings.HasPrefix(typ, strings.TrimSuffix(fmt.Sprint(o.Object), "x")) && !strings.Contains(typ, o.Object) {
			t.Errorf("%s: its object is a %q", typ, o.Object)
		}
	}
}

func TestIDsReadBack(t *testing.T) {
	t.Parallel()
	id := load.ID{Source: "b7", Key: 5, Seq: 70}
	got, err := load.ParseID(id.String())
	if err != nil || got != id {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "evt_", "evt_a_b_c", "evt_A_1_1", "xvt_a_1_1", "evt_a_1_99999999999"} {
		if _, err := load.ParseID(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestHistogramIsRightToTwoPercent(t *testing.T) {
	t.Parallel()
	var h, even, odd load.Histogram
	for i := 1; i <= 100_000; i++ {
		d := time.Duration(i) * 1237 * time.Nanosecond
		h.Record(d)
		if i%2 == 0 {
			even.Record(d)
		} else {
			odd.Record(d)
		}
	}
	even.Merge(&odd)
	for _, q := range []float64{0, 0.001, 0.5, 0.99, 0.999, 1} {
		exact := float64(max(q*100_000, 1)) * 1237
		got := float64(h.Quantile(q))
		if got < exact*0.999 || got > exact*1.017 {
			t.Errorf("quantile %v is %v, want %v", q, got, exact)
		}
		if m := float64(even.Quantile(q)); m != got {
			t.Errorf("quantile %v after a merge is %v, want %v", q, m, got)
		}
	}
	if h.Count() != 100_000 || h.Max() != 123_700*time.Microsecond {
		t.Errorf("count %d, max %s", h.Count(), h.Max())
	}
	var empty load.Histogram
	empty.Record(-time.Second)
	empty.Record(100 * time.Hour)
	if empty.Quantile(0.5) != 0 || empty.Quantile(1) < 9*time.Minute {
		t.Errorf("out of range: %s, %s", empty.Quantile(0.5), empty.Quantile(1))
	}
}
