package main

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

const deploy = "../../deploy"

// configs are all configs that we hand out, by path.
func configs(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"examples/*.yaml", "quickstart/*.yaml", "cluster/*.yaml"} {
		found, err := filepath.Glob(filepath.Join(deploy, pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(found), err)
		}
		all = append(all, found...)
	}
	return all
}

// surroundings are what the examples expect to find: secrets in the environment, files in a folder that is moved into the test.
func surroundings(t *testing.T) (moved func(text string) string) {
	t.Helper()
	dir := t.TempDir()
	const standard = "whsec_b25seSBmb3IgdGhlIHRlc3RzIG9mIHZlcmlmeQ=="
	for name, value := range map[string]string{
		"STRIPE_WEBHOOK_SECRET": "whsec_of_the_stripe_account", "BACKOFFICE_SIGNING_SECRET": standard, "SHOPIFY_SECRET": "secret_of_the_shop",
		"GITHUB_WEBHOOK_SECRET": "secret_of_the_repository", "CHAT_WEBHOOK_URL": "https://chat.example.com/services/T0000/B0000",
		"PAYPAL_WEBHOOK_ID": "8PT597110X687430LKGECATA", "HUBSPOT_CLIENT_SECRET": "secret_of_the_app", "WAREHOUSE_KEY": "key_of_the_warehouse",
		"PLATFORM_SECRET_NEW": standard, "PLATFORM_SECRET_OLD": strings.Replace(standard, "b25s", "b26s", 1), "BILLING_SIGNING_SECRET": standard,
		"MAILING_KEY": "key_of_the_mailing", "ANALYTICS_PASSWORD": "password_of_analytics", "ERP_SECRET": "secret_of_the_erp",
		"TIDEWIRE_KAFKA": "kafka.example.com:9092", "TIDEWIRE_POSTGRES": "postgres://tidewire:secret@postgres.example.com/tidewire", "BACKOFFICE_URL": "https://backoffice.example.com/events",
	} {
		t.Setenv(name, value)
	}
	authority, leaf := chain(t)
	for name, text := range map[string]string{
		"erp-token": "token_of_the_erp\n", "accounting-secret": "secret_of_accounting\n", "paypal-certificate.pem": leaf, "paypal-chain.pem": authority,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return func(text string) string { return strings.ReplaceAll(text, "/etc/tidewire/", dir+"/") }
}

// chain is an authority's certificate and one that it gave to a name as PayPal's have it, in PEM.
func chain(t *testing.T) (authority, leaf string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	form := func(name string, ca bool) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: ca, BasicConstraintsValid: true,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		}
	}
	above := form("an authority", true)
	issue := func(form *x509.Certificate) string {
		der, err := x509.CreateCertificate(rand.Reader, form, above, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return issue(above), issue(form("messageverificationcerts.paypal.com", false))
}

// TestEveryExampleIsValid loads each config in deploy with what it expects around it. None may come with a warning, but for the hub in a container, whose
// admin door is open within the containers' network: Prometheus is another container.
func TestEveryExampleIsValid(t *testing.T) {
	moved := surroundings(t)
	for _, path := range configs(t) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got := call(t, "", "validate", "--config", file(t, filepath.Base(path), moved(string(text))))
		warnings := strings.Count(got.out, "warning:")
		if strings.Contains(path, "cluster"+string(filepath.Separator)) && strings.Contains(got.out, "the admin door is open to other machines") {
			warnings--
		}
		if got.code != exitOK || warnings > 0 {
			t.Errorf("%s: exit %d\n%s%s", path, got.code, got.out, got.err)
		}
	}
}

// TestTheSchemaIsThatOfTheProgram keeps deploy/tidewire.schema.json as "make generate" writes it.
func TestTheSchemaIsThatOfTheProgram(t *testing.T) {
	t.Parallel()
	got := call(t, "", "config", "schema")
	kept, err := os.ReadFile(filepath.Join(deploy, "tidewire.schema.json"))
	if got.code != exitOK || err != nil || got.out != string(kept) {
		t.Errorf("deploy/tidewire.schema.json is not what 'tidewire config schema' prints: run 'make generate' (exit %d, %v)", got.code, err)
	}
}

// TestTheSchemaDescribesTheConfigs has another implementation of JSON Schema read ours, and judge the configs with it.
func TestTheSchemaDescribesTheConfigs(t *testing.T) {
	t.Parallel()
	document, err := jsonschema.UnmarshalJSON(strings.NewReader(call(t, "", "config", "schema").out))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("tidewire.schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("tidewire.schema.json")
	if err != nil {
		t.Fatalf("not a JSON Schema: %v", err)
	}
	judge := func(path string) error {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var v any
		if err := yaml.Unmarshal(text, &v); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return schema.Validate(v)
	}
	good := configs(t)
	more, err := filepath.Glob("../../config/testdata/good/*")
	if err != nil || len(more) == 0 {
		t.Fatalf("no good configs: %v", err)
	}
	// These three show the file's grammar with connections that are none: what a connector needs is left out.
	grammar := []string{"cluster.yaml", "everything.yaml", "indented-with-tabs.json", "smallest.yaml"}
	for _, path := range more {
		if !slices.Contains(grammar, filepath.Base(path)) {
			good = append(good, path)
		}
	}
	for _, path := range good {
		if err := judge(path); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, name := range []string{"unknown-section", "unknown-route-key", "text-for-number", "duration-without-unit", "route-without-to", "start-unknown"} {
		if err := judge("../../config/testdata/bad/" + name + ".yaml"); err == nil {
			t.Errorf("%s: the schema has nothing against it", name)
		}
	}
}

// TestAlertsAskForMetricsThatExist holds the names, labels and values in the alerting rules against a hub that runs and has refused a call, and those of
// cluster mode against the code.
func TestAlertsAskForMetricsThatExist(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(deploy, "prometheus", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&rules); err != nil {
		t.Fatal(err)
	}
	e := expose(t)
	labels := regexp.MustCompile(`\$labels\.([a-z]+)`)
	alerts := make(map[string]bool)
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			alerts[r.Alert] = true
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Labels["severity"] == "" {
				t.Errorf("%s has no summary, description or severity", r.Alert)
			}
			var has []string
			for _, name := range metricNames.FindAllString(r.Expr, -1) {
				found, ok := e.labels(name)
				if !ok {
					t.Errorf("%s: a hub has no %s", r.Alert, name)
				}
				has = append(has, found...)
			}
			for _, m := range labels.FindAllStringSubmatch(r.Annotations["summary"], -1) {
				if m[1] != "instance" && !slices.Contains(has, m[1]) {
					t.Errorf("%s: its metrics have no label %s", r.Alert, m[1])
				}
			}
		}
	}
	for _, name := range []string{"TidewireDown", "TidewireNotReady", "TidewireRouteLags", "TidewireDeadLetters", "TidewireParkedTooLong", "TidewireTargetRests", "TidewireRoutePaused",
		"TidewireOutcomesNotWritten", "TidewireLagUnknown", "TidewireSpoolInUse", "TidewireSpoolFilling", "TidewireNearRetention", "TidewireRecordsLost"} {
		if !alerts[name] {
			t.Errorf("there is no alert %s", name)
		}
	}
}

// refused posts a call whose signature is not good.
func refused(t *testing.T, h *hub) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+h.listen+"/in/shop", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Shopify-Hmac-Sha256", "bm90IGdvb2Q=")
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Fatalf("a forged call: %d", res.StatusCode)
	}
}

// seriesOf are the lines of a metric, with all the labels that are asked for.
func seriesOf(metrics, asked string) []string {
	name, selector, _ := strings.Cut(strings.TrimSuffix(asked, "}"), "{")
	var found []string
	for line := range strings.Lines(metrics) {
		if !strings.HasPrefix(line, name+"{") && !strings.HasPrefix(line, name+" ") {
			continue
		}
		all := true
		for label := range strings.SplitSeq(selector, ",") {
			all = all && strings.Contains(line, strings.TrimSpace(label))
		}
		if all {
			found = append(found, line)
		}
	}
	return found
}

// TestTheServiceFileIsHardened looks for the words that make it so, and for settings that hold together with the hub's own.
func TestTheServiceFileIsHardened(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(deploy, "systemd", "tidewire.service"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"DynamicUser=yes", "ProtectSystem=strict", "ProtectHome=yes", "StateDirectory=tidewire", "NoNewPrivileges=yes", "CapabilityBoundingSet=", "PrivateTmp=yes",
		"PrivateDevices=yes", "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX", "SystemCallFilter=@system-service", "MemoryDenyWriteExecute=yes",
		"Restart=on-failure", "RestartPreventExitStatus=2", "TimeoutStopSec=40s",
		"ExecStart=/usr/local/bin/tidewire serve --config /etc/tidewire/tidewire.yaml",
	} {
		if !slices.Contains(strings.Split(string(text), "\n"), line) {
			t.Errorf("no line %s", line)
		}
	}
}
