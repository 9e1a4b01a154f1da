package signature

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/tidewire/tidewire/config"
)

func jwtAlgorithms() []string {
	return []string{"HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// symmetric reports whether the algorithms use a shared secret.
func symmetric(algorithms []string) bool {
	return len(algorithms) > 0 && strings.HasPrefix(algorithms[0], "HS")
}

// rulesJWT checks the settings of JWTs. Shared secrets and public keys never mix: a public key taken for a secret is the oldest forgery of them all.
func (ch *checker) rulesJWT(v *Verifier) {
	ch.where(v)
	ch.format(v)
	if len(ch.set.Algorithms) == 0 {
		ch.add("algorithms", "list those the sender uses, such as [HS256]", "scheme jwt needs the algorithms that are accepted")
	}
	for _, a := range ch.set.Algorithms {
		if !slices.Contains(jwtAlgorithms(), a) {
			ch.add("algorithms", config.Suggest(a, "algorithms", jwtAlgorithms()), "%s is not an algorithm that is accepted here", quoted(a))
		}
		if strings.HasPrefix(a, "HS") != symmetric(ch.set.Algorithms) {
			ch.add("algorithms", "list one sort", "algorithms mix shared secrets (HS…) and public keys")
		}
	}
	if len(ch.set.Algorithms) > 0 {
		ch.keys(v)
	}
	v.ts = timestamp{tolerance: ch.set.Tolerance.Std()}
}

// judgeJWT checks a JSON Web Token: algorithm, signature, exp (which has to be there), nbf, iat, the claims that are asked for, and
// the hashes of body and URL where the scheme has them.
func judgeJWT(v *Verifier, c *Request, t *trace) error {
	var room [1]string
	f, err := v.place.find(c, room[:0])
	if err != nil {
		return t.refused("token", err)
	}
	t.passed("token", "found in %s: %d characters", v.place.where(), len(f.values[0]))
	if strings.ContainsFunc(f.values[0], notCompact) {
		return t.refused("token", refuse(Malformed, "the token is not a JWT: it has characters that no JWT has"))
	}
	match, stale := -1, false
	var claims jwt.MapClaims
	var refusal error
	for i := range v.keys {
		got, err := v.parseJWT(&v.keys[i], f.values[0], c.At)
		switch {
		case err != nil:
			refusal = moreTelling(refusal, err)
		case !v.keys[i].valid(c.At):
			stale = true
		case match < 0:
			match, claims = i, got
		}
	}
	switch {
	case match < 0 && stale:
		return t.refused("token", v.outOfTime())
	case match < 0:
		return t.refused("token", refusal)
	}
	t.matched(v, match)
	if err := v.checkClaims(c, claims); err != nil {
		return t.refused("claims", err)
	}
	t.passed("claims", "issuer, times and hashes fit")
	return nil
}

// notCompact reports a character that the compact form of a JWT does not have; base64 would skip line ends.
func notCompact(r rune) bool {
	letter := r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9'
	return !letter && r != '-' && r != '_' && r != '.'
}

// moreTelling keeps the refusal that says more: one by the clock or the claims means that the signature fitted.
func moreTelling(a, b error) error {
	if a == nil || AsRefusal(a).Code == Mismatch {
		return b
	}
	return a
}

func (v *Verifier) parseJWT(k *key, token string, at time.Time) (jwt.MapClaims, error) {
	options := []jwt.ParserOption{
		jwt.WithValidMethods(v.set.Algorithms), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(),
		jwt.WithLeeway(v.ts.tolerance), jwt.WithTimeFunc(func() time.Time { return at }),
	}
	if v.set.Issuer != "" {
		options = append(options, jwt.WithIssuer(v.set.Issuer))
	}
	if v.set.Audience != "" {
		options = append(options, jwt.WithAudience(v.set.Audience))
	}
	claims := jwt.MapClaims{}
	_, err := jwt.NewParser(options...).ParseWithClaims(token, claims, func(*jwt.Token) (any, error) {
		if k.public != nil {
			return k.public, nil
		}
		return k.bytes, nil
	})
	return claims, v.jwtRefusal(err, token)
}

// jwtRefusal puts the library's error into our words: its own may quote the token.
func (v *Verifier) jwtRefusal(err error, token string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrTokenMalformed):
		return refuse(Malformed, "the token is not a JWT")
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		if alg := jwtAlgorithm(token); !slices.Contains(v.set.Algorithms, alg) {
			return refuse(Algorithm, "the token is signed with an algorithm that is not among %s", strings.Join(v.set.Algorithms, ", "))
		}
		return refuse(Mismatch, "the token's signature fits none of the %d configured keys", len(v.keys))
	case errors.Is(err, jwt.ErrTokenExpired):
		return refuse(Expired, "the token has expired")
	case errors.Is(err, jwt.ErrTokenNotValidYet), errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return refuse(Future, "the token is from the future: nbf or iat is ahead of our clock")
	case errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return refuse(Missing, "the token has no exp, or lacks another required claim")
	case errors.Is(err, jwt.ErrTokenInvalidIssuer):
		return refuse(Mismatch, "the token is from another issuer")
	case errors.Is(err, jwt.ErrTokenInvalidAudience):
		return refuse(Mismatch, "the token is for another audience")
	case errors.Is(err, jwt.ErrTokenUnverifiable):
		return refuse(Algorithm, "the token's algorithm does not fit the key")
	}
	return refuse(Malformed, "the token's claims cannot be read")
}

// jwtAlgorithm reads the header's alg, for the refusal's code only.
func jwtAlgorithm(token string) string {
	parsed, _, err := jwt.NewParser().ParseUnverified(token, jwt.MapClaims{})
	if parsed == nil || err != nil && parsed.Method == nil {
		return ""
	}
	alg, _ := parsed.Header["alg"].(string)
	return alg
}

// checkClaims looks at what is left once the signature fits.
func (v *Verifier) checkClaims(c *Request, claims jwt.MapClaims) error {
	for name, want := range v.set.Claims {
		got, ok := claims[name].(string)
		switch {
		case !ok:
			return refuse(Missing, "the token has no claim %s", name)
		case !same(got, want):
			return refuse(Mismatch, "the token's claim %s is not the one that is asked for", name)
		}
	}
	if name := v.set.BodyHashClaim; name != "" {
		got, there := claims[name]
		switch {
		case there != (len(c.Body) > 0):
			return refuse(Mismatch, "the token's claim %s says that there %s a body, and there %s", name, isOrNot(there), isOrNot(!there))
		case there && !sameHash(got, c.Body):
			return refuse(Mismatch, "the body is not the one whose hash is in the token's claim %s", name)
		}
	}
	if name := v.set.URLHashClaim; name != "" {
		u, err := signedURL(v.set.PublicURL, c.URL, true)
		if err != nil {
			return err
		}
		if !sameHash(claims[name], []byte(u)) {
			return refuse(Mismatch, "public_url and the call's query are not the URL whose hash is in the token's claim %s", name)
		}
	}
	return nil
}

func isOrNot(there bool) string {
	if there {
		return "is"
	}
	return "is not"
}

// sameHash compares a claim with the SHA-256 of what it is about, in hex.
func sameHash(claim any, of []byte) bool {
	got, ok := claim.(string)
	sum := sha256.Sum256(of)
	return ok && same(got, hex.EncodeToString(sum[:]))
}
