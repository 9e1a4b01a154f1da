package signature

import (
	"time"

	"github.com/tidewire/tidewire/config"
)

// Settings is the YAML block "verify:": how the calls of one connection prove where they come from. With a named
// scheme (see Schemes) it holds the credentials and little else; with one of the generic kinds (hmac, hash, ed25519,
// ecdsa, rsa, jwt, basic, token, mtls, ip-allow, none) it also holds the rules, which are the same fields that the named
// schemes are written in.
type Settings struct {
	Scheme string `yaml:"scheme,required" doc:"A provider's scheme, such as stripe or shopify, or a generic kind. Required; \"none\" has to be said."`

	Secret       config.Secret   `yaml:"secret" doc:"The signing secret, token, webhook key or verifier token, exactly as the provider shows it."`
	Secrets      []config.Secret `yaml:"secrets,one" doc:"Several of them, for rotation: the new one first. Every one is tried on every call. Use secret or secrets, not both."`
	SecretsUntil time.Time       `yaml:"secrets_until" doc:"Ends a rotation: after this time (RFC 3339) only the first of secrets is accepted. Default: no end."`
	PublicKey    string          `yaml:"public_key" doc:"The provider's public key: PEM, or base64 of the SPKI or raw Ed25519 key. For braintree: the API public key, while secret is the private key."`
	Certificate  string          `yaml:"certificate" doc:"The provider's signing certificate in PEM; several during a change of certificate."`
	Chain        string          `yaml:"chain" doc:"PEM of the authorities above the certificate. When set, the certificate has to chain to its last one."`
	Tolerance    config.Duration `yaml:"tolerance" doc:"How far a signed timestamp may be from our clock, in both directions. Default: the scheme's, mostly 300s. At most 24h."`
	PublicURL    string          `yaml:"public_url" doc:"The address as it was registered at the provider, for schemes that sign it. It is never rebuilt from the call."`
	Username     string          `yaml:"username" doc:"User name of HTTP basic authentication, as it was given to the provider."`
	Password     config.Secret   `yaml:"password" doc:"Password of HTTP basic authentication; further ones, for rotation, go into secrets."`
	Allow        []string        `yaml:"allow,one" doc:"Addresses and networks (CIDR) that calls may come from. Required for ip-allow; an additional check for every other scheme."`
	Challenge    string          `yaml:"challenge" doc:"Query parameter that is echoed on GET while the address is being registered, such as hub.challenge. Generic kinds only."`

	WebhookID  string        `yaml:"webhook_id" doc:"The webhook's identity at the provider (paypal, espocrm), which is part of what is signed."`
	AllowedSAN []string      `yaml:"allowed_san,one" doc:"The name (DNS, URI, e-mail or IP) a client certificate has to carry, for mtls; one or a list."`
	CAPEM      string        `yaml:"ca_pem" doc:"The PEM of the authorities client certificates have to come from, for mtls."`
	APIv3Key   config.Secret `yaml:"apiv3_key" doc:"The merchant's key that opens the encrypted resource of wechatpay notifications. Verification does not need it."`

	Header        string            `yaml:"header" doc:"Header that holds the signature or token. One of header, query and field is set."`
	Query         string            `yaml:"query" doc:"Query parameter that holds the signature or token."`
	Field         string            `yaml:"field" doc:"Form field that holds the signature or token; for scheme token also a field of a JSON body."`
	Format        *Format           `yaml:"format" doc:"How the signature is written there. Default: plain."`
	Hash          string            `yaml:"hash" enum:"sha256|sha1|sha384|sha512" doc:"Hash of the signature. Default: sha256."`
	Encoding      string            `yaml:"encoding" enum:"hex|base64" doc:"Encoding of the signature, read strictly. Default: hex."`
	Key           string            `yaml:"key" enum:"utf8|hex|base64|sha1(utf8)" doc:"How bytes are made of the secret. Default: utf8."`
	KeyStrip      string            `yaml:"key_strip" doc:"What is removed from the front of the secret or public key when it is there, such as whsec_."`
	Signed        string            `yaml:"signed" doc:"The text that is signed. Default \"{body}\". Placeholders: {body} {ts} {method} {url} {secret} {crc32} {h:NAME} {cfg:webhook_id} {form_sorted} {form_kv_sorted:-a,-b}."`
	AltSigned     string            `yaml:"alt_signed" doc:"A second text that is accepted in its place."`
	TS            *TS               `yaml:"ts" doc:"Where the timestamp is and how it is written."`
	Required      []string          `yaml:"required,one" doc:"Further headers that have to be there."`
	RequireEqual  map[string]string `yaml:"require_equal" doc:"Headers that must have exactly this value."`
	KeyID         *KeyID            `yaml:"key_id" doc:"Header in which a call names the key it was signed with."`
	Cert          *Cert             `yaml:"cert" doc:"What is asked of the certificate."`
	URLVariants   []string          `yaml:"url_variants,one" doc:"Other spellings of the URL that are accepted: without_port, with_default_port, decoded."`
	BodyHashQuery string            `yaml:"body_hash_query" doc:"Query parameter that holds the SHA-256 of the body in hex, where only the URL is signed."`

	Algorithms    []string          `yaml:"algorithms,one" doc:"JWT algorithms that are accepted, such as HS256. Required for jwt; none never is."`
	Claims        map[string]string `yaml:"claims" doc:"JWT claims that must have exactly this value."`
	Issuer        string            `yaml:"issuer" doc:"The iss a JWT must have. Default: any."`
	Audience      string            `yaml:"audience" doc:"The aud a JWT must have. Default: any."`
	BodyHashClaim string            `yaml:"body_hash_claim" doc:"Claim that holds the SHA-256 of the body in hex. Without it a JWT does not protect the body."`
	URLHashClaim  string            `yaml:"url_hash_claim" doc:"Claim that holds the SHA-256 of the public URL in hex."`
}

// Check reports every mistake in the settings as New does, so that decoding them puts each at its place in the file.
func (s *Settings) Check() error {
	_, err := New(*s)
	return err
}

// Format is how a signature is written in its header.
type Format struct {
	Kind     string `yaml:"kind" enum:"plain|prefix|kv|list" doc:"plain (the whole value), prefix (a label before it), kv (t=…,v1=…) or list (v1,… v1,…). Default: plain."`
	Prefix   string `yaml:"prefix" doc:"For prefix: the label, such as sha256=."`
	MultiSep string `yaml:"multi_sep" doc:"For prefix: allows several values, in one header with this between them or in repeated headers."`
	PairSep  string `yaml:"pair_sep" doc:"For kv: what stands between pairs. Default: a comma."`
	KVSep    string `yaml:"kv_sep" doc:"For kv: what stands between name and value. Default: =."`
	TS       string `yaml:"ts" doc:"For kv: the name of the timestamp."`
	Sig      string `yaml:"sig" doc:"For kv: the name of the signature."`
	Sep      string `yaml:"sep" doc:"For list: what stands between entries. Default: a space."`
	Version  string `yaml:"version" doc:"For list: the version that is read; entries of others are ignored."`

	VersionSep string `yaml:"version_sep" doc:"For list: what stands after the version. Default: a comma."`
}

// TS is where a timestamp is and how it is written.
type TS struct {
	Header  string `yaml:"header" doc:"Header that holds it. Default: the signature's own header does (format kv)."`
	Unit    string `yaml:"unit" enum:"s|ms|rfc3339" doc:"s (exactly ten digits), ms (thirteen digits) or rfc3339. Default: s."`
	Enforce *bool  `yaml:"enforce" doc:"false accepts any time: for providers that retry with the old timestamp. Default: true."`
}

// KeyID is how a call names the key it was signed with.
type KeyID struct {
	Header string `yaml:"header" doc:"Header that holds the name."`
	Match  string `yaml:"match" enum:"cert-serial-hex" doc:"For certificates: the name is their serial number in hexadecimal."`
	Value  string `yaml:"value" doc:"For public_key: its name at the provider, such as PUB_KEY_ID_…."`
}

// Cert is what is asked of a signing certificate. It comes from the settings; nothing is ever fetched.
type Cert struct {
	SubjectCNSuffix string `yaml:"subject_cn_suffix" doc:"How the subject's common name has to end."`
	URLHeader       string `yaml:"url_header" doc:"Header with the certificate's address; only https is accepted."`
	URLHostSuffix   string `yaml:"url_host_suffix" doc:"How the host of that address has to end."`
}
