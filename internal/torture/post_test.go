package torture

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// stripe posts a small signed event and returns the answer's status, 0 for none, and its Retry-After.
func (b *bed) stripe(id string) (code int, retryAfter string) {
	return b.stripeBody([]byte(fmt.Sprintf(`{"id":%q,"object":"event","type":"invoice.paid","api_version":"2024-06-20","created":1700000000,"data":{"object":{"id":"in_1","customer":"cus_%s"}}}`, id, id)))
}

// stripeBody signs any body and posts it.
func (b *bed) stripeBody(body []byte) (code int, retryAfter string) {
	now := strconv.FormatInt(time.Now().Unix(), 10)
	mac := hmac.New(sha256.New, []byte(stripeSecret))
	mac.Write([]byte(now + "."))
	mac.Write(body)
	return b.call("/in/stripe", body, map[string]string{"Stripe-Signature": "t=" + now + ",v1=" + hex.EncodeToString(mac.Sum(nil))})
}

// call posts a body.
func (b *bed) call(path string, body []byte, headers map[string]string) (code int, retryAfter string) {
	r, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, "http://"+b.listen+path, bytes.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	for k, v := range headers {
		r.Header.Set(k, v)
	}
	answer, err := client.Do(r)
	if err != nil {
		return 0, ""
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, answer.Header.Get("Retry-After")
}
