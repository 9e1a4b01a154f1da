package signature

import (
	"slices"
	"strings"
)

// Shape says which settings schemes of one kind take, for whoever helps a person to write them. It says what can be seen in the
// keys alone; New judges the rest.
type Shape struct {
	// Schemes are the words for Settings.Scheme that it is about, sorted.
	Schemes []string
	// Refused are the settings that New does not take beside these schemes, sorted.
	Refused []string
	// Needs are the settings that have to be there: of each group one.
	Needs [][]string
}

// Shapes returns the shapes of all schemes. Every scheme is in one of them.
func Shapes() []Shape {
	var out []Shape
	for _, s := range Schemes() {
		words := append(slices.Clone(s.Aliases), s.Name)
		shape := Shape{Refused: s.refused(), Needs: s.needs()}
		i := slices.IndexFunc(out, func(o Shape) bool {
			return slices.Equal(o.Refused, shape.Refused) && slices.EqualFunc(o.Needs, shape.Needs, slices.Equal)
		})
		if i < 0 {
			i, out = len(out), append(out, shape)
		}
		out[i].Schemes = append(out[i].Schemes, words...)
	}
	for i := range out {
		slices.Sort(out[i].Schemes)
	}
	return out
}

func (s Scheme) isGeneric() bool { return slices.Contains(generic(), s.Name) }

// refused follows checker.named and checker.unused.
func (s Scheme) refused() []string {
	kind := s.Rules.Scheme
	anyJWT := kind == kindJWT && s.isGeneric() // its algorithms are the user's
	ch := checker{scheme: s, set: s.Rules}
	var out []string
	if !s.isGeneric() {
		for _, rule := range rules(Settings{}) {
			if rule.name != "key_id" || s.Rules.KeyID == nil {
				out = append(out, rule.name)
			}
		}
		if s.Rules.TS == nil && kind != kindJWT {
			out = append(out, "tolerance")
		}
	}
	if !ch.usesSecret() && !anyJWT {
		out = append(out, "secret")
		if kind != kindBasic {
			out = append(out, "secrets")
		}
	}
	if !slices.Contains(publicKinds(), kind) && !anyJWT {
		out = append(out, "public_key")
	}
	if kind != kindECDSA && kind != kindRSA && !anyJWT {
		out = append(out, "certificate")
	}
	if kind != kindBasic {
		out = append(out, "password", "username")
	}
	slices.Sort(out)
	return out
}

// needs are the groups of Needs: what may stand for another is in one group with it.
func (s Scheme) needs() [][]string {
	var out [][]string
	for _, need := range s.Needs {
		switch {
		case need == "chain": // it may be left out, at the price of trusting the certificate itself
			continue
		case need == "header":
			out = append(out, []string{"header", "query", "field"})
		case need == "secret" || need == "password":
			out = append(out, []string{need, "secrets"})
		case need == "public_key" && (s.Rules.Scheme == kindECDSA || s.Rules.Scheme == kindRSA):
			out = append(out, []string{"public_key", "certificate"})
		case need == "certificate" && s.Rules.Cert == nil:
			out = append(out, []string{"certificate", "public_key"})
		default:
			out = append(out, []string{need})
		}
	}
	slices.SortFunc(out, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
	return out
}

// rule is one of the settings that named schemes say themselves.
type rule struct {
	name string
	set  bool
}

func rules(u Settings) []rule {
	return []rule{
		{"header", u.Header != ""}, {"query", u.Query != ""}, {"field", u.Field != ""}, {"format", u.Format != nil}, {"hash", u.Hash != ""},
		{"encoding", u.Encoding != ""}, {"key", u.Key != ""}, {"key_strip", u.KeyStrip != ""}, {"signed", u.Signed != ""},
		{"alt_signed", u.AltSigned != ""}, {"ts", u.TS != nil}, {"required", len(u.Required) > 0}, {"require_equal", len(u.RequireEqual) > 0},
		{"key_id", u.KeyID != nil}, {"cert", u.Cert != nil}, {"url_variants", len(u.URLVariants) > 0}, {"body_hash_query", u.BodyHashQuery != ""},
		{"algorithms", len(u.Algorithms) > 0}, {"claims", len(u.Claims) > 0}, {"issuer", u.Issuer != ""}, {"audience", u.Audience != ""},
		{"body_hash_claim", u.BodyHashClaim != ""}, {"url_hash_claim", u.URLHashClaim != ""}, {"challenge", u.Challenge != ""},
	}
}

// publicKinds are those that verify with a public key of the provider's.
func publicKinds() []string {
	return []string{kindEd25519, kindECDSA, kindRSA, kindBrain, kindBrainGet}
}
