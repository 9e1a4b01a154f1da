package signature_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/connectors/signature"
)

// benchBody is about as large as a provider's event.
var benchBody = bytes.Repeat([]byte(`{"id":"evt_1","k":[1,2,3]},`), 38)

func BenchmarkVerify(b *testing.B) {
	secrets := map[string]string{"standard-webhooks": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
	for _, scheme := range []string{"stripe", "standard-webhooks", "github", "shopify", "slack"} {
		b.Run(scheme, func(b *testing.B) {
			secret := config.NewSecret("whsec_4f2c9be1d0a84b6f")
			if s, ok := secrets[scheme]; ok {
				secret = config.NewSecret(s)
			}
			at := time.Unix(1767225600, 0)
			h, err := signature.Sign(signature.Signing{Scheme: scheme, Secret: secret}, signature.SignRequest{ID: "msg_1", At: at, Body: benchBody})
			if err != nil {
				b.Fatal(err)
			}
			v, err := signature.New(signature.Settings{Scheme: scheme, Secret: secret})
			if err != nil {
				b.Fatal(err)
			}
			c := signature.Request{Method: "POST", URL: "/in/x", Header: h, Body: benchBody, At: at}
			b.ReportAllocs()
			b.SetBytes(int64(len(benchBody)))
			for b.Loop() {
				if err := v.Verify(c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkSign(b *testing.B) {
	for _, scheme := range []string{"stripe", "standard-webhooks"} {
		b.Run(scheme, func(b *testing.B) {
			s, err := signature.NewSigner(signature.Signing{Scheme: scheme, Secret: config.NewSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")})
			if err != nil {
				b.Fatal(err)
			}
			at := time.Unix(1767225600, 0)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Sign(signature.SignRequest{ID: "msg_1", At: at, Body: benchBody}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
