package services

import (
	"context"
	_ "embed" // the pom
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
)

// NewestKafka is the newest version of Apache Kafka that Tidewire is tested with, and OldestKafka the oldest.
const (
	NewestKafka = "4.3.1"
	OldestKafka = "3.4.0"
)

//go:embed kafka/pom.xml
var pom []byte

// kafkaFiles finds what a broker of a version runs on: a Java of 17 or newer, and a folder with its jars, which is downloaded by Maven when it is not in the cache.
func kafkaFiles(ctx context.Context, version string) (java, jars string, err error) {
	if java, err = findJava(ctx); err != nil {
		return "", "", err
	}
	jars, err = cached(ctx, "kafka-"+version, func(dir string) error {
		file := filepath.Join(dir, "pom.xml")
		if err := os.WriteFile(file, pom, 0o600); err != nil {
			return fmt.Errorf("download Apache Kafka: %w", err)
		}
		err := maven(ctx, dir, "-f", file, "-Dkafka.version="+version, "dependency:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory="+dir)
		if err != nil {
			return fmt.Errorf("%w: Apache Kafka %s: %w", ErrMissing, version, err)
		}
		return nil
	})
	return java, jars, err
}

// maven has Maven download something into a folder.
func maven(ctx context.Context, dir string, args ...string) error {
	program, err := exec.LookPath("mvn")
	if err != nil {
		return errors.New("its download needs Maven; install it (Debian and Ubuntu: apt-get install maven)")
	}
	args = append([]string{program, "-q", "-B"}, args...)
	// Maven keeps what it downloads in the home that the system knows of, which service accounts may not have.
	home, err := os.UserHomeDir()
	if who, err2 := user.Current(); err == nil && err2 == nil && who.HomeDir != home {
		args = append(args, "-Dmaven.repo.local="+filepath.Join(home, ".m2", "repository"))
	}
	if err := run(ctx, command{dir: dir, args: args}); err != nil {
		return fmt.Errorf("its download by Maven failed: %w", err)
	}
	return nil
}

var javaVersion = regexp.MustCompile(`version "(\d+)`)

// findJava is $JAVA_HOME's or the first in PATH.
func findJava(ctx context.Context) (string, error) {
	const install = "install Java 17 or newer (Debian and Ubuntu: apt-get install openjdk-17-jre-headless)"
	java := filepath.Join(os.Getenv("JAVA_HOME"), "bin", "java")
	if os.Getenv("JAVA_HOME") == "" {
		var err error
		if java, err = exec.LookPath("java"); err != nil {
			return "", fmt.Errorf("%w: Java, which Apache Kafka runs on; %s", ErrMissing, install)
		}
	}
	said, err := exec.CommandContext(ctx, java, "-version").CombinedOutput() //nolint:gosec // the operator's own Java
	if err != nil {
		return "", fmt.Errorf("%w: a Java that works, %s -version: %w; %s", ErrMissing, java, err, install)
	}
	version := javaVersion.FindSubmatch(said)
	if version == nil {
		return "", fmt.Errorf("%w: a Java that tells its version (%s does not); %s", ErrMissing, java, install)
	}
	if major, err := strconv.Atoi(string(version[1])); err != nil || major < 17 {
		return "", fmt.Errorf("%w: a Java that is new enough (%s is %s); %s", ErrMissing, java, version[1], install)
	}
	return java, nil
}
