package services

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// javaCommand is Java with the jars and with options for a small and quick broker: on two cores it is up in some three seconds, takes about 350 MB and, idle, 3 % of a core.
func (k *Kafka) javaCommand(dir string) []string {
	return append([]string{
		k.java, "-Xms256m", "-Xmx512m",
		// One collector thread; and the quick compiler alone: half the start's CPU, at the price of some throughput.
		"-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
		// Nothing in the system's temporary folder, where a kill would leave it behind.
		"-XX:-UsePerfData", "-Djava.io.tmpdir=" + dir,
		"-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
		"-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS", "-Dorg.slf4j.simpleLogger.showThreadName=false",
		"-cp", filepath.Join(k.jars, "*"),
	}, k.o.Java...)
}

// prepare writes a broker's properties, and formats its folder unless that was done before.
func (k *Kafka) prepare(ctx context.Context, b *broker) error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	properties := k.properties(b)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		fmt.Fprintf(&text, "%s=%s\n", name, strings.ReplaceAll(properties[name], "\n", "\\n"))
	}
	if err := os.WriteFile(b.propertiesFile(), []byte(text.String()), 0o600); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(b.dir, "data", "meta.properties")); err == nil {
		return nil
	}
	args := append(k.javaCommand(b.dir), "kafka.tools.StorageTool", "format", "-t", k.id, "-c", b.propertiesFile())
	if k.scram() {
		for _, name := range slices.Sorted(maps.Keys(k.o.Users)) {
			for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
				args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, name, k.o.Users[name]))
			}
		}
	}
	if err := run(ctx, command{args: args, dir: b.dir}); err != nil {
		return fmt.Errorf("format the folder of %s: %w", b.name(), err)
	}
	return nil
}

// scram reports whether users can log in by SCRAM: Kafka's tool writes their passwords since 3.5.
func (k *Kafka) scram() bool {
	major, rest, _ := strings.Cut(k.o.Version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return len(k.o.Users) > 0 && (a > 3 || a == 3 && b >= 5)
}

// properties are a broker's server.properties.
func (k *Kafka) properties(b *broker) map[string]string {
	voters := make([]string, len(k.brokers))
	for i, other := range k.brokers {
		voters[i] = fmt.Sprintf("%d@%s", i+1, address(other.ports[1]))
	}
	copies := strconv.Itoa(min(len(k.brokers), 3))
	written := strconv.Itoa(max(1, min(len(k.brokers), 3)-1))
	p := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        strconv.Itoa(b.number + 1),
		"controller.quorum.voters":       strings.Join(voters, ","),
		"controller.listener.names":      "CONTROLLER",
		"inter.broker.listener.name":     "PLAINTEXT",
		"listeners":                      "PLAINTEXT://" + address(b.ports[0]) + ",CONTROLLER://" + address(b.ports[1]),
		"advertised.listeners":           "PLAINTEXT://" + address(b.ports[0]),
		"listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"log.dirs":                       filepath.Join(b.dir, "data"),
		"auto.create.topics.enable":      "false",
		"default.replication.factor":     copies,
		"min.insync.replicas":            written,

		"offsets.topic.replication.factor":                 copies,
		"transaction.state.log.replication.factor":         copies,
		"transaction.state.log.min.isr":                    written,
		"share.coordinator.state.topic.replication.factor": copies,
		"share.coordinator.state.topic.min.isr":            written,

		// Small, because there is one machine and a few topics.
		"offsets.topic.num.partitions":         "5",
		"transaction.state.log.num.partitions": "5",
		"num.network.threads":                  "2",
		"num.io.threads":                       "4",
		"log.cleaner.dedupe.buffer.size":       "16777216",

		// Quick, because a test waits: groups form at once, and a broker that was killed loses its partitions after five seconds.
		"group.initial.rebalance.delay.ms": "0",
		"group.min.session.timeout.ms":     "1000",
		"broker.session.timeout.ms":        "5000",
		"broker.heartbeat.interval.ms":     "1000",
	}
	k.addSecure(b, p)
	maps.Copy(p, k.o.Properties)
	return p
}

// addSecure adds the listener with TLS or log-in.
func (k *Kafka) addSecure(b *broker, p map[string]string) {
	if !k.secure() {
		return
	}
	protocol := map[[2]bool]string{{true, false}: "SSL", {false, true}: "SASL_PLAINTEXT", {true, true}: "SASL_SSL"}[[2]bool{k.o.TLS, len(k.o.Users) > 0}]
	p["listeners"] += ",SECURE://" + address(b.ports[2])
	p["advertised.listeners"] += ",SECURE://" + address(b.ports[2])
	p["listener.security.protocol.map"] += ",SECURE:" + protocol
	if k.issued != nil {
		p["ssl.keystore.type"], p["ssl.truststore.type"] = "PEM", "PEM"
		p["ssl.keystore.location"] = k.issued.serverBoth
		p["ssl.truststore.location"] = k.issued.CA
		p["ssl.client.auth"] = "requested"
	}
	if len(k.o.Users) == 0 {
		return
	}
	const modules = "org.apache.kafka.common.security."
	var users strings.Builder
	for _, name := range slices.Sorted(maps.Keys(k.o.Users)) {
		fmt.Fprintf(&users, " user_%s=\"%s\"", name, k.o.Users[name])
	}
	mechanisms := []string{"PLAIN"}
	p["listener.name.secure.plain.sasl.jaas.config"] = modules + "plain.PlainLoginModule required" + users.String() + ";"
	if k.scram() {
		mechanisms = append(mechanisms, "SCRAM-SHA-256", "SCRAM-SHA-512")
		for _, m := range []string{"scram-sha-256", "scram-sha-512"} {
			p["listener.name.secure."+m+".sasl.jaas.config"] = modules + "scram.ScramLoginModule required;"
		}
	}
	p["sasl.enabled.mechanisms"] = strings.Join(mechanisms, ",")
	p["listener.name.secure.sasl.enabled.mechanisms"] = strings.Join(mechanisms, ",")
}
