package signature

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/tidewire/tidewire/config"
)

// Scheme is what is known of one provider's webhooks, as data. Expressions are CEL over the call: header("Name") is a header, method the
// call's method, body the parsed body (of one item, where a call carries several), as Body says.
type Scheme struct {
	// Name is the word for Settings.Scheme; Aliases are others for the same.
	Name    string
	Aliases []string
	// Title names the provider for people, Docs is its page on the subject.
	Title, Docs string
	// Rules is how calls are signed, in the words of Settings; Rules.Scheme is the kind.
	Rules Settings
	// Needs lists the settings a user has to give.
	Needs []string
	// Methods are those that the provider delivers by. Default: POST alone.
	Methods []string
	// Defaults are the expressions used where the connection gives none.
	Defaults Defaults
	// Many: one call carries a list of events. Items is the path to it, such as "events"; "" where the body itself is the list.
	// A body that is a list is taken as the list whatever Items says.
	Many  bool
	Items string
	// Body says how the body is parsed for expressions. It is always stored as it came.
	Body Body
	// BodyField is the form field whose JSON is the body, for FormJSON.
	BodyField string
	// Answers are the provider's wishes; zero answers are the hub's own.
	Answers Answers
	// Handshake is how the provider tests the address.
	Handshake Handshake
	// Retries says in one line when the provider tries again and for how long.
	Retries string
}

// Deliveries are the methods that deliveries come by.
func (s Scheme) Deliveries() []string {
	if len(s.Methods) == 0 {
		return []string{http.MethodPost}
	}
	return slices.Clone(s.Methods)
}

// Defaults are CEL expressions. An empty ID means the fingerprint of the body; an empty Key no order; an empty Time
// when the call came. Time is a timestamp. Absent fields make an expression fail, and a failed default counts as empty.
type Defaults struct{ ID, Type, Key, Time, Subject string }

// Body is a way to parse bodies.
type Body string

// The ways.
const (
	JSON     Body = "json"
	Form     Body = "form"            // application/x-www-form-urlencoded; body is a map of texts
	FormJSON Body = "form-json-field" // one field of a form holds JSON
	XML      Body = "xml"             // not parsed
)

// Answer is what to send back. The zero value means the hub's own answer.
type Answer struct {
	Status      int
	ContentType string
	Body        string
	Header      map[string]string
}

// IsZero reports whether the hub's own answer is meant.
func (a Answer) IsZero() bool { return a.Status == 0 }

// Answers are the answers a provider wants to its calls.
type Answers struct {
	Accepted Answer // stored, or nothing to store
	Refused  Answer // the signature does not fit
	Invalid  Answer // signed, but not to be understood
}

// Handshake is how a provider tests an address before it uses it. See Verifier.Greet.
type Handshake string

// The handshakes.
const (
	NoHandshake        Handshake = ""
	EchoChallenge      Handshake = "echo"        // GET with a query parameter, which is the answer
	Probe              Handshake = "probe"       // GET or HEAD, 200 is enough
	CloudEventsOptions Handshake = "cloudevents" // OPTIONS with WebHook-Request-Origin
	SlackChallenge     Handshake = "slack"       // POST url_verification, signed; the challenge is the answer
	BraintreeChallenge Handshake = "braintree"   // GET bt_challenge; its signature is the answer
	WooPing            Handshake = "woocommerce" // POST webhook_id=N, unsigned; 200 is enough
)

// Names of schemes and kinds that code refers to.
const (
	stripe       = "stripe"
	kindHMAC     = "hmac"
	kindHash     = "hash"
	kindEd25519  = "ed25519"
	kindECDSA    = "ecdsa"
	kindRSA      = "rsa"
	kindJWT      = "jwt"
	kindBasic    = "basic"
	kindToken    = "token"
	kindMTLS     = "mtls"
	kindIPAllow  = "ip-allow"
	kindNone     = "none"
	kindAdyen    = "adyen-items"
	kindBrain    = "braintree"
	kindBrainGet = "braintree-challenge"
	kindEspo     = "espocrm"
)

// generic are the kinds that users spell out.
func generic() []string {
	return []string{kindHMAC, kindHash, kindEd25519, kindECDSA, kindRSA, kindJWT, kindBasic, kindToken, kindMTLS, kindIPAllow, kindNone}
}

// Schemes returns every scheme, named and generic, sorted by name.
func Schemes() []Scheme {
	all := slices.Concat(schemesAtoG(), schemesHtoR(), schemesStoZ(), genericSchemes())
	slices.SortFunc(all, func(a, b Scheme) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Lookup returns the scheme of that name or alias.
func Lookup(name string) (Scheme, bool) {
	for _, s := range Schemes() {
		if s.Name == name || slices.Contains(s.Aliases, name) {
			return s, true
		}
	}
	return Scheme{}, false
}

// names lists every word Settings.Scheme may be, for suggestions.
func names() []string {
	words := map[string]bool{}
	for _, s := range Schemes() {
		words[s.Name] = true
		for _, a := range s.Aliases {
			words[a] = true
		}
	}
	return slices.Sorted(maps.Keys(words))
}

func unknownScheme(name string) config.Fault {
	return config.Fault{Key: "scheme", Message: "there is no scheme " + quoted(name), Fix: config.Suggest(name, "schemes", names())}
}

// genericSchemes are the kinds users spell out: no defaults beyond those of Settings.
func genericSchemes() []Scheme {
	needs := map[string][]string{
		kindHMAC: {"secret", "header"}, kindHash: {"secret", "header", "signed"}, kindEd25519: {"public_key", "header"}, kindECDSA: {"public_key", "header"},
		kindRSA: {"public_key", "header"}, kindJWT: {"algorithms", "header"}, kindBasic: {"username", "password"}, kindToken: {"secret", "header"},
		kindMTLS: {"ca_pem", "allowed_san"}, kindIPAllow: {"allow"},
	}
	aliases := map[string][]string{kindECDSA: {"ecdsa-p256-sha256"}, kindRSA: {"rsa-sha256"}}
	var out []Scheme
	for _, kind := range generic() {
		s := Scheme{Name: kind, Aliases: aliases[kind], Title: "any system: " + kind, Rules: Settings{Scheme: kind}, Needs: needs[kind], Body: JSON}
		if kind == kindBasic {
			s.Rules.Header = "Authorization"
		}
		out = append(out, s)
	}
	return out
}
