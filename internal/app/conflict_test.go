package app_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
)

// TestOneFactIsOneEvent posts one event many times at once, then another body under its ID, before and after a restart.
func TestOneFactIsOneEvent(t *testing.T) { bothModes(t, oneFactIsOneEvent) }

func oneFactIsOneEvent(t *testing.T, in mode) {
	t.Helper()
	office := receiving(t, nil)
	config := in(fmt.Sprintf(`
server: {listen: "127.0.0.1:0", admin: "127.0.0.1:0", shutdown_timeout: 5s}
data_dir: %q
connections:
  shop:
    connector: http
    webhook: {verify: {scheme: shopify, secret: %s}, id: header("X-Order"), type: header("X-Shopify-Topic"), key: header("X-Order")}
  office: {connector: http, url: %q, allow_private: true}
routes:
  orders: {from: shop, to: office}
`, t.TempDir(), shopSecret, office.URL))
	h := serve(t, config)
	post := func(body string) int {
		return h.knock(t, "shop", body, "X-Order", "1001", "X-Shopify-Topic", "orders/paid")
	}
	for start := range 2 {
		codes := make([]int, 50)
		var all sync.WaitGroup
		for i := range codes {
			all.Go(func() { codes[i] = post(`{"total": 1}`) })
		}
		all.Wait()
		if slices.ContainsFunc(codes, func(code int) bool { return code != 200 }) {
			t.Errorf("start %d: 50 calls with one event were answered %v", start, codes)
		}
		if code := post(`{"total": 2}`); code != 409 {
			t.Errorf("start %d: another body under its id is answered %d", start, code)
		}
		if start == 0 {
			if got := office.next(t); got.body != `{"total": 1}` {
				t.Errorf("delivered %s", got.body)
			}
			until(t, "it is known beyond this hub", func() bool { return h.metric(t, "tidewire_log_duplicates_total") == "49" })
			if err := h.stop(); err != nil {
				t.Fatal(err)
			}
			h = serve(t, config)
			if code := post(`{"total": 3}`); code != 409 {
				t.Errorf("after a restart another body under a known id is answered %d", code)
			}
		}
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(office.calls); n != 0 {
		t.Errorf("one event was delivered %d times more", n)
	}
}
