package torture

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tidewire/tidewire/internal/load"
	"github.com/tidewire/tidewire/internal/services"
)

// TestTortureClusterSecrets has hubs log in to Kafka and PostgreSQL with planted passwords, which both fail and come back while the hubs tell all they can, and hubs that
// try with wrong ones: no password is in anything that a hub says or keeps.
func TestTortureClusterSecrets(t *testing.T) {
	must(t, clusterSecrets(t, hub))
}

func clusterSecrets(t *testing.T, bin string) []string {
	t.Helper()
	words := map[string]string{
		"the Kafka password": "planted4kafka7login", "the PostgreSQL password": "planted4postgres7login",
		"a wrong Kafka password": "planted4kafka7wrong", "a wrong PostgreSQL password": "planted4postgres7wrong",
	}
	const name = "cluster: planted passwords"
	login := words["the Kafka password"]
	kafka := services.NewKafka(t, services.KafkaOptions{Users: map[string]string{"hub": login}})
	postgres := services.NewPostgres(t, services.PostgresOptions{Password: words["the PostgreSQL password"]})
	r := newRack(t, plan{
		bin: bin, kafka: kafka, postgres: postgres, brokers: kafka.SecureAddresses(),
		secure: fmt.Sprintf(", sasl: {mechanism: scram-sha-512, username: hub, password: %s}", login),
		rules:  map[string]load.Rule{"/steady": {}, "/picky": {Share: 0.1, Fail: 1 << 20, Status: 400}}, routes: []string{"steady", "picky"},
		settings: "log: {level: debug}\n" + connections("steady", "picky") + "routes:\n  steady: {from: stripe, to: steady}\n  picky: {from: stripe, to: picky}\n",
	})
	r.allUp()
	stop := r.background(clusterRate / 2)
	said := make(map[string]string)
	asked := func(when string) {
		for _, page := range []string{"/readyz", "/metrics"} {
			_, text, err := r.hubs[0].get("http://" + r.hubs[0].admin + page)
			said[page+" "+when] = fmt.Sprint(text, err)
		}
	}
	pause(t, time.Second)
	if err := kafka.Kill(0); err != nil {
		t.Fatal(err)
	}
	pause(t, 3*time.Second)
	asked("without Kafka")
	if err := kafka.Start(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	r.flowing("/steady")
	if err := postgres.Stop(services.Immediate); err != nil {
		t.Fatal(err)
	}
	pause(t, 2*time.Second)
	asked("without PostgreSQL")
	if err := postgres.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.flowing("/steady")
	sent := stop()
	r.calm(time.Minute)
	r.silent(words["the Kafka password"], words["the PostgreSQL password"])
	r.down(0) // its doors are those of the hubs that are to come
	text, err := os.ReadFile(r.hubs[0].config)
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []string{"Kafka", "PostgreSQL"} {
		path := filepath.Join(t.TempDir(), "tidewire.yaml")
		wrong := strings.ReplaceAll(string(text), words["the "+server+" password"], words["a wrong "+server+" password"])
		if err := os.WriteFile(path, []byte(wrong), 0o600); err != nil {
			t.Fatal(err)
		}
		code, output, _ := r.hubs[0].exit(time.Minute, bin, "serve", "--config", path)
		if said["a start with a wrong "+server+" password"] = output; code != 3 || !strings.Contains(output, server) {
			r.fault("a hub with a wrong %s password: exit code %d, it said %s", server, code, output)
		}
	}
	found := 0
	for where, text := range said {
		for _, hit := range hits(words, where, text) {
			r.fault("what was planted as %s", hit)
			found++
		}
	}
	r.routes = r.routes[:1] // the other's dead letters are not lost
	r.settled(name, 1, func() []*load.Sent { return sent }, 0)
	tell(t, name, len(words), "hits", found)
	return r.violations()
}
