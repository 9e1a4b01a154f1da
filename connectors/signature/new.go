package signature

import (
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tidewire/tidewire/config"
)

// defaultTolerance is how far a timestamp may be from our clock where the scheme does not say.
const defaultTolerance = 300 * time.Second

// maxTolerance keeps a mistyped tolerance from switching the replay protection off.
const maxTolerance = 24 * time.Hour

// quoted shows a setting in a message.
func quoted(s string) string {
	if len(s) > 60 {
		s = s[:60] + "…"
	}
	return strconv.Quote(s)
}

// New checks settings and makes a verifier of them. The error joins a config.Fault for every mistake, with keys relative to the
// settings; none holds a secret.
func New(s Settings) (*Verifier, error) {
	if s.Scheme == "" {
		return nil, config.Fault{Key: "scheme", Message: "no scheme is set", Fix: `say how calls are signed; "none" has to be said; ` + config.Suggest("", "schemes", names())}
	}
	scheme, ok := Lookup(s.Scheme)
	if !ok {
		return nil, unknownScheme(s.Scheme)
	}
	ch := &checker{scheme: scheme, user: s, set: s}
	if slices.Contains(generic(), scheme.Name) {
		ch.set.Scheme = scheme.Rules.Scheme
		ch.set.Header = cmp.Or(s.Header, scheme.Rules.Header)
	} else {
		ch.named()
	}
	v := ch.build()
	if err := errors.Join(ch.faults...); err != nil {
		return nil, err
	}
	return v, nil
}

// checker gathers the problems of one Settings and builds the verifier on the way.
type checker struct {
	scheme Scheme
	user   Settings
	set    Settings // rules of the scheme, everything else of the user
	faults []error
}

func (ch *checker) add(path, fix, message string, args ...any) {
	ch.faults = append(ch.faults, config.Fault{Key: path, Message: fmt.Sprintf(message, args...), Fix: fix})
}

// named lays the user's credentials over the rules of a named scheme, whose rules are fixed.
func (ch *checker) named() {
	u := ch.user
	for _, r := range ch.rulesSet() {
		ch.add(r, "remove it, or spell the scheme out with scheme: "+ch.scheme.Rules.Scheme, "scheme %s says its own %s", ch.scheme.Name, r)
	}
	set := ch.scheme.Rules
	set.Secret, set.Secrets, set.SecretsUntil = u.Secret, u.Secrets, u.SecretsUntil
	set.PublicKey, set.Certificate, set.Chain = u.PublicKey, u.Certificate, u.Chain
	set.PublicURL, set.Username, set.Password = u.PublicURL, u.Username, u.Password
	set.WebhookID, set.AllowedSAN, set.CAPEM, set.APIv3Key = u.WebhookID, u.AllowedSAN, u.CAPEM, u.APIv3Key
	if u.Tolerance != 0 {
		set.Tolerance = u.Tolerance
	}
	if len(u.Allow) > 0 {
		set.Allow = u.Allow
	}
	if set.KeyID != nil && u.KeyID != nil {
		id := *set.KeyID
		id.Value = u.KeyID.Value
		set.KeyID = &id
	}
	ch.set = set
}

// rulesSet names the rules the user wrote although a named scheme has them.
func (ch *checker) rulesSet() []string {
	u := ch.user
	keyID := u.KeyID != nil && (ch.scheme.Rules.KeyID == nil || u.KeyID.Header != "" || u.KeyID.Match != "")
	var out []string
	for _, r := range rules(u) {
		if r.set && (r.name != "key_id" || keyID) {
			out = append(out, r.name)
		}
	}
	return out
}

// build checks everything and makes the verifier; it is only to be used when there were no problems.
func (ch *checker) build() *Verifier {
	v := &Verifier{scheme: ch.scheme, set: ch.set, variants: ch.set.URLVariants}
	if ch.set.Challenge != "" {
		v.scheme.Handshake = EchoChallenge
	}
	ch.networks(v)
	ch.url()
	ch.unused()
	switch kind := ch.set.Scheme; kind {
	case kindHMAC, kindHash, kindEd25519, kindECDSA, kindRSA:
		v.judge = judgeSigned
		ch.rules(v)
		ch.keys(v)
	case kindJWT:
		v.judge = judgeJWT
		ch.rulesJWT(v)
	case kindBasic:
		v.judge = judgeBasic
		ch.basic(v)
	case kindToken:
		v.judge = judgeToken
		ch.where(v)
		ch.format(v)
		ch.keys(v)
	case kindMTLS:
		v.judge = judgeMTLS
		ch.mtls()
	case kindIPAllow:
		v.judge = judgeNothing
		if len(ch.set.Allow) == 0 {
			ch.add("allow", "list addresses or networks, such as [203.0.113.7, 198.51.100.0/24]", "no address is allowed")
		}
	case kindNone:
		v.judge = judgeNothing
	case kindAdyen:
		v.judge = judgeAdyen
		ch.keys(v)
	case kindBrain, kindBrainGet:
		v.judge = judgeBraintree
		if kind == kindBrainGet {
			v.judge = judgeBraintreeChallenge
		}
		ch.keys(v)
		if ch.set.PublicKey == "" {
			ch.add("public_key", "copy the API public key from Braintree's settings", "scheme %s needs the public key beside the secret, which is the private key", ch.scheme.Name)
		}
	case kindEspo:
		v.judge = judgeEspo
		ch.keys(v)
		if ch.set.WebhookID == "" {
			ch.add("webhook_id", "copy the webhook's id from EspoCRM", "scheme espocrm needs the webhook's id, which is part of the signature")
		}
	}
	return v
}

// secretKinds are those that share a secret with the provider.
func (ch *checker) usesSecret() bool {
	switch ch.set.Scheme {
	case kindHMAC, kindHash, kindToken, kindAdyen, kindBrain, kindBrainGet, kindEspo:
		return true
	case kindJWT:
		return symmetric(ch.set.Algorithms)
	}
	return false
}

// unused reports credentials the scheme does not look at: whoever wrote them believes that they protect something.
func (ch *checker) unused() {
	kind, name := ch.set.Scheme, ch.scheme.Name
	if !ch.usesSecret() && !ch.set.Secret.IsZero() {
		ch.add("secret", "remove it", "scheme %s uses no secret", name)
	}
	if !ch.usesSecret() && kind != kindBasic && len(ch.set.Secrets) > 0 {
		ch.add("secrets", "remove it", "scheme %s uses no secrets", name)
	}
	if ch.set.PublicKey != "" && !slices.Contains(publicKinds(), kind) && (kind != kindJWT || symmetric(ch.set.Algorithms)) {
		ch.add("public_key", "remove it", "scheme %s uses no public key", name)
	}
	if ch.set.Certificate != "" && kind != kindECDSA && kind != kindRSA && (kind != kindJWT || symmetric(ch.set.Algorithms)) {
		ch.add("certificate", "remove it; for client certificates use ca_pem", "scheme %s uses no signing certificate", name)
	}
	if kind != kindBasic && (ch.set.Username != "" || !ch.set.Password.IsZero()) {
		ch.add("username", "remove username and password", "scheme %s uses no password", name)
	}
	if n := len(ch.set.APIv3Key.Reveal()); n != 0 && n != 16 && n != 24 && n != 32 {
		ch.add("apiv3_key", "copy the 32 characters from the merchant platform", "apiv3_key has %d characters, and a key has 32", n)
	}
	if ch.set.Tolerance != 0 && ch.set.TS == nil && kind != kindJWT {
		ch.add("tolerance", "remove it; repeats are found by the event's id", "scheme %s signs no timestamp", name)
	}
	if ch.set.Tolerance.Std() > maxTolerance {
		ch.add("tolerance", "300s is usual", "a tolerance above 24h lets old calls be replayed")
	}
	if !ch.set.SecretsUntil.IsZero() && len(ch.set.Secrets) < 2 {
		ch.add("secrets_until", "list the new secret and then the old one in secrets", "secrets_until needs an old secret beside the new one")
	}
}

func (ch *checker) networks(v *Verifier) {
	for _, text := range ch.set.Allow {
		prefix, err := netip.ParsePrefix(text)
		if addr, single := netip.ParseAddr(text); single == nil {
			prefix, err = netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), nil
		}
		switch {
		case err != nil:
			ch.add("allow", "write 203.0.113.7 or 198.51.100.0/24", "%s is neither an address nor a network", quoted(text))
		case prefix.Bits() == 0:
			ch.add("allow", "list the networks the provider publishes", "%s allows every address", quoted(text))
		}
		v.allow = append(v.allow, prefix.Masked())
	}
}

// url checks the public URL of schemes that sign it.
func (ch *checker) url() {
	needed := strings.Contains(ch.set.Signed+ch.set.AltSigned, "{url}") || ch.set.URLHashClaim != ""
	if ch.set.PublicURL == "" {
		if needed {
			ch.add("public_url", "set the address exactly as it is registered at the provider, such as https://hooks.example.com/in/shop", "scheme %s signs the URL", ch.scheme.Name)
		}
		return
	}
	u, err := url.Parse(ch.set.PublicURL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.Fragment != "" || u.User != nil && u.User.String() == "" {
		ch.add("public_url", "write the whole address, such as https://hooks.example.com/in/shop", "public_url is not an http or https address")
	}
}

// where checks that exactly one place holds the signature or token.
func (ch *checker) where(v *Verifier) {
	count := 0
	for _, s := range []string{ch.set.Header, ch.set.Query, ch.set.Field} {
		if s != "" {
			count++
		}
	}
	if count != 1 {
		ch.add("header", "set one of header, query and field", "scheme %s needs to know where the signature is; %d places are set", ch.scheme.Name, count)
	}
	encoding := cmp.Or(ch.set.Encoding, encodingHex)
	if encoding != encodingHex && encoding != encodingBase64 {
		ch.add("encoding", config.Suggest(encoding, "encodings", []string{encodingHex, encodingBase64}), "%s is not an encoding", quoted(encoding))
	}
	v.place = place{header: canonical(ch.set.Header), query: ch.set.Query, field: ch.set.Field, encoding: encoding}
}

// rules compiles what is said about signature, text and clock.
func (ch *checker) rules(v *Verifier) {
	ch.where(v)
	ch.format(v)
	ch.clock(v)
	for _, t := range ch.set.URLVariants {
		if !slices.Contains(urlVariants, t) {
			ch.add("url_variants", config.Suggest(t, "variants", urlVariants), "%s is not a variant of a URL", quoted(t))
		}
	}
	v.signed = ch.template("signed", cmp.Or(ch.set.Signed, "{body}"))
	if ch.set.AltSigned != "" {
		v.alt = ch.template("alt_signed", ch.set.AltSigned)
	}
	if id := ch.set.KeyID; id != nil && (id.Header == "" || id.Match != "" && id.Match != "cert-serial-hex") {
		ch.add("key_id", "set header, and match: cert-serial-hex for certificates", "key_id does not say how a key is named")
	}
}

func (ch *checker) template(path, text string) template {
	t, err := parseTemplate(text)
	if err != nil {
		ch.add(path, "", "%s", err.Error())
		return nil
	}
	switch hasSecret := t.has(secretPart); {
	case ch.set.Scheme == kindHash && !hasSecret:
		ch.add(path, `write {secret} where the provider puts it, such as "{secret}{body}"`, "a plain hash without {secret} proves nothing")
	case ch.set.Scheme != kindHash && hasSecret:
		ch.add(path, "remove {secret}: the key is not part of the text", "{secret} belongs to scheme hash only")
	}
	if !t.has(bodyPart, crcPart, formPart, formKVPart) && ch.set.BodyHashQuery == "" {
		ch.add(path, "add {body}", "the signed text does not cover the body")
	}
	if t.has(tsPart) && ch.set.TS == nil {
		ch.add("ts", "say which header holds the timestamp, or name it in format", "the signed text has {ts}, and ts is not set")
	}
	if t.has(webhookIDPart) && ch.set.WebhookID == "" {
		ch.add("webhook_id", "copy it from the provider's settings", "scheme %s needs the webhook's id, which is part of what is signed", ch.scheme.Name)
	}
	return t
}

func (ch *checker) format(v *Verifier) {
	f := Format{}
	if ch.set.Format != nil {
		f = *ch.set.Format
	}
	f.Kind = cmp.Or(f.Kind, "plain")
	switch f.Kind {
	case "plain":
	case "prefix":
		if f.Prefix == "" {
			ch.add("format.prefix", `such as "sha256="`, "format prefix needs the prefix")
		}
	case "kv":
		f.PairSep, f.KVSep = cmp.Or(f.PairSep, ","), cmp.Or(f.KVSep, "=")
		if f.Sig == "" {
			ch.add("format.sig", "such as v1", "format kv needs the name of the signature")
		}
	case "list":
		f.Sep, f.VersionSep = cmp.Or(f.Sep, " "), cmp.Or(f.VersionSep, ",")
		if f.Version == "" {
			ch.add("format.version", "such as v1", "format list needs the version that is read")
		}
	default:
		ch.add("format.kind", config.Suggest(f.Kind, "kinds", []string{"plain", "prefix", "kv", "list"}), "%s is not a kind of format", quoted(f.Kind))
	}
	if f.MultiSep != "" && f.Kind != "prefix" {
		ch.add("format.multi_sep", "use format kind prefix or list", "multi_sep belongs to format prefix")
	}
	v.place.format = f
}

func (ch *checker) clock(v *Verifier) {
	ts := ch.set.TS
	if ts == nil {
		return
	}
	v.ts = timestamp{header: canonical(ts.Header), unit: cmp.Or(ts.Unit, "s"), enforce: ts.Enforce == nil || *ts.Enforce, tolerance: ch.set.Tolerance.Std()}
	if v.ts.tolerance == 0 {
		v.ts.tolerance = defaultTolerance
	}
	units := []string{"s", "ms", "rfc3339"}
	if !slices.Contains(units, v.ts.unit) {
		ch.add("ts.unit", config.Suggest(v.ts.unit, "units", units), "%s is not a unit of time", quoted(v.ts.unit))
	}
	if ts.Header == "" && v.place.format.TS == "" {
		ch.add("ts.header", "set ts.header, or ts in a format of kind kv", "nothing says where the timestamp is")
	}
	if !strings.Contains(ch.set.Signed, "{ts}") && v.ts.enforce && !strings.Contains(strings.ToLower(ch.set.Signed), "{h:"+strings.ToLower(ts.Header)+"}") {
		ch.add("signed", "add {ts} to it", "the timestamp is not part of the signed text, so anybody can change it")
	}
}

// keys makes the keys of secrets, public key or certificates.
func (ch *checker) keys(v *Verifier) {
	hash, ok := hashNamed(cmp.Or(ch.set.Hash, "sha256"))
	if !ok {
		ch.add("hash", config.Suggest(ch.set.Hash, "hashes", hashNames()), "%s is not a hash that is known here", quoted(ch.set.Hash))
		hash = crypto.SHA256
	}
	if !ch.usesSecret() {
		ch.publicKeys(v, hash)
		return
	}
	for _, s := range ch.secrets() {
		k, err := secretKey(ch.set, s.text, hash)
		switch least := ch.least(); {
		case err != nil:
			ch.add(s.path, "copy it from the provider again, whole", "the secret cannot be read: %v", err)
			continue
		case len(k.bytes) < least:
			ch.add(s.path, fmt.Sprintf("use at least %d bytes of randomness", least), "the secret is too short: a key of %d bytes can be guessed", len(k.bytes))
		}
		if len(v.keys) > 0 {
			k.until = ch.set.SecretsUntil
		}
		v.keys = append(v.keys, k)
	}
}

// secretKey makes the key of a secret by the rules of the settings.
func secretKey(set Settings, text string, hash crypto.Hash) (key, error) {
	b, err := secretBytes(text, cmp.Or(set.Key, "utf8"), set.KeyStrip)
	if err != nil {
		return key{}, err
	}
	k := key{text: text, bytes: b, hash: hash}
	if set.Scheme != kindToken && set.Scheme != kindJWT {
		k.macs = newMACs(hash, b, text, set.Scheme == kindHash)
	}
	return k, nil
}

// least is how short a key may be. Named providers make their own secrets; where people choose, guessing has to be out of reach.
func (ch *checker) least() int {
	switch {
	case ch.set.KeyStrip == "whsec_":
		return 16
	case ch.scheme.Name == kindJWT:
		return 16
	case slices.Contains(generic(), ch.scheme.Name):
		return 8
	}
	return 1
}

type setSecret struct{ path, text string }

// secrets returns what is set, and reports what is empty, doubled or has white space around it.
func (ch *checker) secrets() []setSecret {
	if !ch.set.Secret.IsZero() && len(ch.set.Secrets) > 0 {
		ch.add("secrets", "put all of them into secrets, the new one first", "secret and secrets are both set")
	}
	var out []setSecret
	if !ch.set.Secret.IsZero() {
		out = append(out, setSecret{"secret", ch.set.Secret.Reveal()})
	}
	for _, s := range ch.set.Secrets {
		out = append(out, setSecret{"secrets", s.Reveal()})
	}
	if len(out) == 0 {
		ch.add("secret", "set it; with an empty secret anybody could sign", "scheme %s needs a secret, and it is missing or empty", ch.scheme.Name)
	}
	good := out[:0]
	for _, s := range out {
		switch {
		case strings.TrimPrefix(s.text, ch.set.KeyStrip) == "":
			ch.add(s.path, "set it; with an empty secret anybody could sign", "the secret is empty")
		case strings.TrimSpace(s.text) != s.text:
			ch.add(s.path, "remove the spaces or line ends around it", "the secret begins or ends with white space")
		default:
			good = append(good, s)
		}
	}
	return good
}

func (ch *checker) publicKeys(v *Verifier, hash crypto.Hash) {
	kind := ch.set.Scheme
	if ch.set.Certificate != "" {
		keys, err := certificateKeys(ch.set.Certificate, ch.set.Chain, ch.set.Cert)
		if err != nil {
			ch.add("certificate", "paste the provider's certificate, from BEGIN to END", "the certificate cannot be used: %v", err)
		}
		v.keys = keys
	} else if ch.set.Chain != "" {
		ch.add("chain", "set certificate too", "chain without a certificate")
	}
	if ch.set.PublicKey != "" {
		public, err := parsePublicKey(ch.set.PublicKey, ch.set.KeyStrip)
		if err != nil {
			ch.add("public_key", "paste it whole, PEM or base64", "the public key cannot be read: %v", err)
		} else {
			k := key{public: public}
			if ch.set.KeyID != nil {
				k.id = ch.set.KeyID.Value
				if k.id == "" {
					ch.add("key_id", "set key_id: {value: PUB_KEY_ID_…}, or use certificate", "calls name their key, and nothing says the name of public_key")
				}
			}
			v.keys = append(v.keys, k)
		}
	}
	if ch.set.Certificate == "" && (ch.set.PublicKey == "" || ch.set.Cert != nil) {
		need := "public_key"
		if ch.set.Cert != nil || ch.set.KeyID != nil {
			need = "certificate"
		}
		ch.add(need, "copy it from the provider", "scheme %s needs the provider's %s", ch.scheme.Name, strings.ReplaceAll(need, "_", " "))
	}
	for i := range v.keys {
		v.keys[i].hash = hash
		if kind == kindJWT {
			continue
		}
		if err := checkPublicKey(v.keys[i].public, kind); err != nil {
			ch.add(ch.keySetting(), "use the key the provider signs with", "the key cannot be used: %v", err)
		}
	}
}

// keySetting is the setting that the public key came from.
func (ch *checker) keySetting() string {
	if ch.set.Certificate != "" {
		return "certificate"
	}
	return "public_key"
}
