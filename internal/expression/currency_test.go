package expression_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/internal/expression"
)

// TestPlacesOfCurrencies has the exceptions from two places as another library has them: OpenJDK's list of ISO 4217, and UYW, which is not there yet.
func TestPlacesOfCurrencies(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF": "123456", "BHD IQD JOD KWD LYD OMR TND": "123.456", "CLF UYW": "12.3456",
		"AFN COP HUF IDR IRR MGA MRU PKR RSD TWD UYU VES XAD XCG ZWG": "1234.56",
	}
	stripe := map[string]string{"ISK UGX HUF TWD USD XAD": "1234.56", "MGA JPY KRW": "123456", "BHD JOD KWD OMR TND": "123.456"}
	env := mustEnv(t)
	for convention, places := range map[string]map[string]string{"": want, `, "stripe"`: stripe} {
		for codes, text := range places {
			for code := range strings.FieldsSeq(codes) {
				p := mustCompile(t, env, fmt.Sprintf("money(123456, %q%s)", code, convention), expression.String)
				if got, err := p.String(t.Context(), &expression.Input{}); got != text || err != nil {
					t.Errorf("%s%s: %q, %v, want %q", code, convention, got, err, text)
				}
			}
		}
	}
	for _, code := range []string{"XAU", "XDR", "XXX", "XTS", "DEM"} {
		if _, err := env.Compile(fmt.Sprintf("money(1, %q)", code), expression.String); err == nil {
			t.Errorf("%s is a currency", code)
		}
	}
}
