package signature_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

// TestSchemesDeliverByWhatTheySay: a scheme names no method that its own rules cannot prove, and POST is among them.
func TestSchemesDeliverByWhatTheySay(t *testing.T) {
	t.Parallel()
	want := map[string]string{"frappe": "POST PUT DELETE", "hubspot-v2": "GET POST", "hubspot-v3": "GET POST", "jwt-messagebird": "GET POST"}
	for _, s := range signature.Schemes() {
		methods := s.Deliveries()
		expected := "POST"
		if w, other := want[s.Name]; other {
			expected = w
		}
		if got := strings.Join(methods, " "); got != expected {
			t.Errorf("%s delivers by %s, want %s", s.Name, got, expected)
		}
		methods[0] = "X"
		if slices.Contains(s.Deliveries(), "X") && len(s.Methods) > 0 {
			t.Errorf("%s: its methods can be changed", s.Name)
		}
	}
}

func TestMethodsThatCanCarryDeliveries(t *testing.T) {
	t.Parallel()
	secret := config.NewSecret("0123456789abcdef")
	for name, tc := range map[string]struct {
		settings signature.Settings
		method   string
		want     string // "": it can
	}{
		"a PUT":                       {signature.Settings{Scheme: "github", Secret: secret}, "PUT", ""},
		"a method of no delivery":     {signature.Settings{Scheme: "github", Secret: secret}, "OPTIONS", "is not a method that deliveries come by"},
		"in small letters":            {signature.Settings{Scheme: "github", Secret: secret}, "get", "is not a method that deliveries come by"},
		"a GET of a signed body":      {signature.Settings{Scheme: "github", Secret: secret}, "GET", "which scheme github does not sign"},
		"a GET that is a probe":       {signature.Settings{Scheme: "mandrill", Secret: secret, PublicURL: "https://h.example/in/a"}, "GET", "answers every GET as a test"},
		"a GET whose end can move":    {signature.Settings{Scheme: "square", Secret: secret, PublicURL: "https://h.example/in/a"}, "GET", "signs more after the URL"},
		"a GET with a field in it":    {signature.Settings{Scheme: "zoho", Secret: secret}, "GET", "in the body, and a GET has none"},
		"a GET of a JWT for its body": {signature.Settings{Scheme: "jwt", Secret: secret, Header: "X-T", Algorithms: []string{"HS256"}, BodyHashClaim: "h"}, "GET", "does not sign"},
		"a GET of a JWT as a token":   {signature.Settings{Scheme: "jwt", Secret: secret, Header: "X-T", Algorithms: []string{"HS256"}}, "GET", ""},
		"a GET with a token":          {signature.Settings{Scheme: "token", Secret: secret, Query: "code"}, "GET", ""},
		"a GET of a signed URL":       {signature.Settings{Scheme: "twilio-json", Secret: secret, PublicURL: "https://h.example/in/a"}, "GET", ""},
		"a GET of one text of two": {signature.Settings{Scheme: "hmac", Secret: secret, Header: "X-S", PublicURL: "https://h.example/in/a", Signed: "{method}{url}{body}",
			AltSigned: "{body}"}, "GET", "does not sign"},
		"a GET whose end can move in one text": {signature.Settings{Scheme: "hmac", Secret: secret, Header: "X-S", PublicURL: "https://h.example/in/a",
			Signed: "{method}{url}{body}", AltSigned: "{url}{body}"}, "GET", "signs more after the URL"},
		"a GET of a signed method": {signature.Settings{Scheme: "hubspot-v3", Secret: secret, PublicURL: "https://h.example/in/a"}, "GET", ""},
		"a method signed too late": {signature.Settings{Scheme: "hmac", Secret: secret, Header: "X-S", PublicURL: "https://h.example/in/a", Signed: "{url}{method}{body}"}, "GET",
			"signs more after the URL"},
	} {
		v, err := signature.New(tc.settings)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		err = v.Delivers(tc.method)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

// hubspotV3 signs a call as HubSpot does.
func hubspotV3(method, url, body string, at time.Time) signature.Request {
	mac := hmac.New(sha256.New, []byte("secret_of_the_app"))
	stamp := at.UnixMilli()
	mac.Write([]byte(method + url + body + strconv.FormatInt(stamp, 10)))
	h := http.Header{}
	h.Set("X-Hubspot-Signature-V3", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	h.Set("X-Hubspot-Request-Timestamp", strconv.FormatInt(stamp, 10))
	target := "/in/hub"
	if _, query, found := strings.Cut(url, "?"); found {
		target += "?" + query
	}
	return signature.Request{Method: method, URL: target, Header: h, Body: []byte(body), At: at}
}

// TestAGetsQueryIsItsOwn: where the method is signed, a GET may bring any query, and no other call's bytes become one.
func TestAGetsQueryIsItsOwn(t *testing.T) {
	t.Parallel()
	const url = "https://hooks.example.com/in/hub"
	at := time.Unix(1767225600, 0)
	v, err := signature.New(signature.Settings{Scheme: "hubspot-v3", Secret: config.NewSecret("secret_of_the_app"), PublicURL: url})
	if err != nil {
		t.Fatal(err)
	}
	get := hubspotV3("GET", url+"?userId=1&portal=2", "", at)
	if err := v.Verify(get); err != nil {
		t.Errorf("a GET with a query: %v", err)
	}
	if got := v.Query(get); got != "userId=1&portal=2" {
		t.Errorf("its query is %q", got)
	}
	altered := get
	altered.URL = "/in/hub?userId=9&portal=2"
	if err := v.Verify(altered); err == nil {
		t.Error("another query has the same signature")
	}
	moved := get
	moved.URL, moved.Body = "/in/hub", []byte("?userId=1&portal=2")
	if r := signature.AsRefusal(v.Verify(moved)); r == nil || r.Code != signature.Malformed {
		t.Errorf("a query that became a body: %v", r)
	}
	post := hubspotV3("POST", url, "?userId=1", at)
	if err := v.Verify(post); err != nil {
		t.Fatal(err)
	}
	if got := v.Query(post); got != "" {
		t.Errorf("a POST's query is public_url's: %q", got)
	}
	for _, method := range []string{"GET", "PUT"} {
		other := post
		other.Method, other.URL, other.Body = method, "/in/hub?userId=1", nil
		if err := v.Verify(other); err == nil {
			t.Errorf("a POST's body became a %s's query", method)
		}
	}
}

func TestTheQueryHoldsNoCredential(t *testing.T) {
	t.Parallel()
	v, err := signature.New(signature.Settings{Scheme: "token", Secret: config.NewSecret("0123456789abcdef"), Query: "the code"})
	if err != nil {
		t.Fatal(err)
	}
	c := signature.Request{Method: "GET", URL: "/in/a?a=1&the+code=0123456789abcdef&b=%20&the%20code", At: time.Unix(1767225600, 0)}
	if got := v.Query(c); got != "a=1&b=%20" {
		t.Errorf("%q", got)
	}
	unproved, err := signature.New(signature.Settings{Scheme: "github", Secret: config.NewSecret("x")})
	if err != nil {
		t.Fatal(err)
	}
	if got := unproved.Query(c); got != "" {
		t.Errorf("a query that nobody signed: %q", got)
	}
}

func TestMoments(t *testing.T) {
	t.Parallel()
	at := time.Unix(1767225600, 0)
	v3, err := signature.New(signature.Settings{Scheme: "hubspot-v3", Secret: config.NewSecret("s"), PublicURL: "https://h.example/"})
	if err != nil {
		t.Fatal(err)
	}
	if got := v3.Moment(hubspotV3("GET", "https://h.example/", "", at)); got != "1767225600000" {
		t.Errorf("a signed timestamp: %q", got)
	}
	evolution, err := signature.New(signature.Settings{Scheme: "evolution", Secret: config.NewSecret("0123456789abcdef")})
	if err != nil {
		t.Fatal(err)
	}
	if got := evolution.Moment(signature.Request{Header: http.Header{"Authorization": {"Bearer a.b.c"}}}); got != "a.b" {
		t.Errorf("a token: %q", got)
	}
	unsigned, err := signature.New(signature.Settings{Scheme: "hmac", Secret: config.NewSecret("0123456789abcdef"), Header: "X-S",
		TS: &signature.TS{Header: "X-T", Enforce: new(bool)}})
	if err != nil {
		t.Fatal(err)
	}
	if got := unsigned.Moment(signature.Request{Header: http.Header{"X-S": {"00"}, "X-T": {"1767225600"}}}); got != "" {
		t.Errorf("a timestamp that nobody signed: %q", got)
	}
	github, err := signature.New(signature.Settings{Scheme: "github", Secret: config.NewSecret("s")})
	if err != nil {
		t.Fatal(err)
	}
	if got := github.Moment(signature.Request{Header: http.Header{"X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(make([]byte, 32))}}}); got != "" {
		t.Errorf("a constant signature: %q", got)
	}
}
