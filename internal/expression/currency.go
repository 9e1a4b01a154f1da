package expression

import (
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidewire/tidewire/internal/strictjson"
)

// The currencies of ISO 4217, list one, by the number of decimal places of their minor unit, as the maintenance agency
// publishes them (https://www.six-group.com/en/products-services/financial-information/data-standards.html). Each was held against
// java.util.Currency.getDefaultFractionDigits() of OpenJDK 17.0.15 and 25, which carry that list: none differs, and UYW,
// which they lack, has four in the list. golang.org/x/text/currency is no source: it has CLDR's places, which are how many people write
// (none for AFN, COP or IDR), not what a minor unit is. Codes that were withdrawn lately (ANG, BGN, CUC, HRK, SLL, ZWL) are kept,
// because old events are replayed. Metals, units of account without a minor unit and test codes are no money and are not here.
const (
	noDecimals = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"

	twoDecimals = "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF " +
		"CHE CHF CHW CNY COP COU CRC CUC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD " +
		"HNL HRK HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU " +
		"MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK " +
		"SGD SHP SLE SLL SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD " +
		"XCD XCG YER ZAR ZMW ZWG ZWL"

	threeDecimals = "BHD IQD JOD KWD LYD OMR TND"

	fourDecimals = "CLF UYW"
)

// conventions are the ways of counting minor units that differ from ISO 4217, by the name an expression gives: how many
// decimal places a currency has in the amounts of that provider.
//
// stripe (https://docs.stripe.com/currencies, "Zero-decimal currencies", "Three-decimal currencies" and "Special cases"): amounts in ISK and UGX
// are counted in hundredths although the currencies have none (100 is ISK 1), and MGA in whole ariary although ISO gives it two places. Everything
// else is as in ISO: HUF and TWD are counted in hundredths, also in payouts, which have to be whole; BHD, JOD, KWD, OMR and TND in thousandths, whose last
// digit is 0.
var conventions = map[string]map[string]int{
	"iso":    {},
	"stripe": {"ISK": 2, "UGX": 2, "MGA": 0},
}

// decimals is how many decimal places each currency's minor unit has.
var decimals = func() map[string]int {
	all := make(map[string]int)
	for places, codes := range map[int]string{0: noDecimals, 2: twoDecimals, 3: threeDecimals, 4: fourDecimals} {
		for code := range strings.FieldsSeq(codes) {
			all[code] = places
		}
	}
	return all
}()

// places looks a currency up, in either case, under a convention.
func places(currency, convention string) (int, error) {
	if len(currency) != 3 || !utf8.ValidString(currency) {
		return 0, refusal("a currency is three letters, such as USD")
	}
	special, ok := conventions[convention]
	if !ok {
		return 0, refusal(`a convention of counting minor units is "iso" or "stripe"`)
	}
	code := strings.ToUpper(currency)
	if n, ok := special[code]; ok {
		return n, nil
	}
	n, ok := decimals[code]
	if !ok {
		return 0, refusal("the currency is not one of ISO 4217")
	}
	return n, nil
}

// money writes an amount of minor units as a decimal number: 1999 in USD is "19.99", -5 is "-0.05", 500 in JPY is "500".
func money(negative bool, minor uint64, currency, convention string) (string, error) {
	n, err := places(currency, convention)
	if err != nil {
		return "", err
	}
	digits := strconv.FormatUint(minor, 10)
	if len(digits) <= n {
		digits = strings.Repeat("0", n-len(digits)+1) + digits
	}
	if n > 0 {
		digits = digits[:len(digits)-n] + "." + digits[len(digits)-n:]
	}
	if negative {
		digits = "-" + digits
	}
	return digits, nil
}

// minor counts an amount in minor units: "19.99" in USD is 1999, and so is "19.9900". An amount with a part of a minor unit is refused, never rounded.
func minor(amount, currency, convention string) (int64, error) {
	n, err := places(currency, convention)
	if err != nil {
		return 0, err
	}
	if !strictjson.IsNumber(amount) {
		return 0, refusal("an amount is a number such as 19.99, without spaces, signs of currency or thousands")
	}
	r, ok := new(big.Rat).SetString(amount)
	if !ok {
		return 0, refusal("an amount is a number such as 19.99")
	}
	r.Mul(r, new(big.Rat).SetInt64([...]int64{1, 10, 100, 1000, 10000}[n]))
	switch {
	case !r.IsInt():
		return 0, refusal("the amount has more decimal places than the currency")
	case !r.Num().IsInt64():
		return 0, refusal("the amount is too large")
	}
	return r.Num().Int64(), nil
}
