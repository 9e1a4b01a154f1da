package day_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load/day"
)

const stripeSecret = "whsec_of_the_day"

var signing = "whsec_" + base64.StdEncoding.EncodeToString([]byte("the back office's signing key 01"))

// hub plays a hub with the quickstart's routes, for the length of a day: well, or with one of the faults.
type hub struct {
	t            *testing.T
	office       string
	ledger       string
	fault        string
	public, side *httptest.Server
	client       *http.Transport

	mu      sync.Mutex
	known   map[string]bool
	counts  map[[2]string]int // by route and outcome
	parked  int
	sending sync.WaitGroup
}

func startHub(t *testing.T, office, ledger, fault string) *hub {
	h := &hub{t: t, office: office, ledger: ledger, fault: fault, known: make(map[string]bool), counts: make(map[[2]string]int), client: &http.Transport{}}
	h.public = httptest.NewServer(http.HandlerFunc(h.receive))
	h.side = httptest.NewServer(http.HandlerFunc(h.metrics))
	t.Cleanup(func() {
		h.public.Close()
		h.side.Close()
		h.sending.Wait()
		h.client.CloseIdleConnections()
	})
	return h
}

func (h *hub) count(route, outcome string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[[2]string{route, outcome}]++
}

func (h *hub) metrics(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fmt.Fprintf(w, "# HELP tidewire_parked x\n# TYPE tidewire_parked gauge\ntidewire_parked{route=%q} %d\n", day.RoutePaid, h.parked)
	for k, n := range h.counts {
		fmt.Fprintf(w, "tidewire_deliveries_total{outcome=%q,route=%q} %d\n", k[1], k[0], n)
	}
}

func (h *hub) receive(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	stamp, sig, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Stripe-Signature"), "t="), ",v1=")
	mac := hmac.New(sha256.New, []byte(stripeSecret))
	mac.Write([]byte(stamp + "." + string(body)))
	if sig != hex.EncodeToString(mac.Sum(nil)) && h.fault != "forgery" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var e struct {
		ID, Type string
		Data     struct{ Object map[string]any }
	}
	if err := json.Unmarshal(body, &e); err != nil {
		h.t.Errorf("the day posts what is not JSON: %v", err)
	}
	h.mu.Lock()
	known := h.known[e.ID]
	h.known[e.ID] = true
	h.mu.Unlock()
	if known && h.fault != "repeat" {
		return
	}
	h.sending.Go(func() { h.carry(e.ID, e.Type, e.Data.Object) })
}

func (h *hub) carry(id, typ string, object map[string]any) {
	f, err := os.OpenFile(h.ledger, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Error(err)
		return
	}
	fmt.Fprintf(f, "{\"id\":%q}\n", id)
	_ = f.Close()
	h.count(day.RouteJournal, "delivered")
	for _, r := range []struct {
		name  string
		types string
	}{{day.RoutePaid, "invoice.paid"}, {day.RouteBack, "charge.refunded charge.dispute.created charge.dispute.closed"}} {
		switch {
		case !strings.Contains(" "+r.types+" ", " "+typ+" "):
			h.count(r.name, "filtered")
		case typ == "invoice.paid" && object["customer_email"] == nil:
			h.count(r.name, "dead")
		case h.fault == "loss" && typ == "charge.refunded":
			h.count(r.name, "delivered")
		default:
			h.deliver(r.name, id)
		}
	}
}

func (h *hub) deliver(route, id string) {
	kind := route
	if route == day.RoutePaid {
		kind = "payment"
	}
	body := fmt.Appendf(nil, `{"event":%q,"kind":%q}`, id, kind)
	for try := range 100 {
		stamp := fmt.Sprint(time.Now().Unix())
		key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(signing, "whsec_"))
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s:%s.%s.%s", id, route, stamp, body)
		r, err := http.NewRequest(http.MethodPost, "http://"+h.office+"/events", bytes.NewReader(body))
		if err != nil {
			h.t.Error(err)
			return
		}
		r.Header.Set("webhook-id", id+":"+route)
		r.Header.Set("webhook-timestamp", stamp)
		r.Header.Set("webhook-signature", "v1,bm8= v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
		if h.fault == "signature" && strings.HasSuffix(id, "1") && try == 0 {
			r.Header.Set("webhook-signature", "v1,bm8=")
		}
		answer, err := h.client.RoundTrip(r)
		if err != nil {
			h.t.Error(err)
			return
		}
		_ = answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			h.count(route, "delivered")
			if try > 0 {
				h.park(-1)
			}
			return
		}
		if try == 0 {
			h.park(1)
		}
		<-time.After(5 * time.Millisecond) // the stand-in's retry schedule
	}
}

func (h *hub) park(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.parked += n
}
