package signature

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"time"
)

// Step is one step of a judgement, for a person. It holds no secret, no expected signature and no value of the call.
type Step struct {
	// Name is what was looked at, in a word or two.
	Name string `json:"name"`
	// OK is false where the call failed.
	OK   bool   `json:"ok"`
	Text string `json:"text"`
}

// trace writes down the steps of a judgement. A nil trace writes nothing, so that Verify pays nothing for it.
type trace struct{ steps []Step }

func (t *trace) add(ok bool, name, format string, args ...any) {
	t.steps = append(t.steps, Step{Name: name, OK: ok, Text: fmt.Sprintf(format, args...)})
}

func (t *trace) passed(name, format string, args ...any) {
	if t != nil {
		t.add(true, name, format, args...)
	}
}

// refused writes the refusal down and hands it back.
func (t *trace) refused(name string, err error) error {
	if r := AsRefusal(err); t != nil && r != nil {
		t.add(false, name, "%s (%s)", r.Text, r.Code)
	}
	return err
}

// clock tells how far the call's clock is from ours.
func (t *trace) clock(v *Verifier, late *Refusal, c *Request) {
	switch {
	case t == nil:
	case late != nil:
		t.add(false, "timestamp", "%s (%s)", late.Text, late.Code)
	case !v.ts.enforce:
		t.add(true, "timestamp", "can be read; this scheme sets no limit to its age")
	default:
		t.add(true, "timestamp", "within %s of %s", v.ts.tolerance, c.At.UTC().Format(time.RFC3339))
	}
}

// text tells what was signed by its length and hash. A plain hash has the secret in its text, so its hash would be the
// expected signature: there the secret is left out.
func (t *trace) text(v *Verifier, e *env) {
	if t == nil {
		return
	}
	e.url = e.urls[0]
	b, note := v.signed.build(e), "" // build leaves the secret out
	if v.signed.has(secretPart) {
		note = ", leaving the secret out"
	}
	t.add(true, "signed text", "%s: %d bytes with SHA-256 %x%s; the body is %d bytes with SHA-256 %x",
		v.signed, len(b), sha256.Sum256(b), note, len(e.c.Body), sha256.Sum256(e.c.Body))
}

func (t *trace) matched(v *Verifier, index int) {
	switch {
	case t == nil:
	case len(v.keys) > 1:
		t.add(true, "comparison", "key %d of %d fits", index+1, len(v.keys))
	default:
		t.add(true, "comparison", "the key fits")
	}
}

// String writes the template the way it is set.
func (t template) String() string {
	var b strings.Builder
	for _, p := range t {
		if p.kind == literal {
			b.WriteString(strings.ReplaceAll(p.text, "\n", `\n`))
			continue
		}
		switch p.kind {
		case bodyPart:
			b.WriteString("{body}")
		default:
			b.WriteString("{" + p.name + "}")
		}
	}
	return b.String()
}

// lengths describes values by how long they are.
func lengths(values []string) string {
	out := make([]string, len(values))
	for i, v := range values {
		out[i] = fmt.Sprint(len(v))
	}
	return strings.Join(out, " and ") + " characters long"
}
