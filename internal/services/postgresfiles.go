package services

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// OldestPostgres is the oldest PostgreSQL that Tidewire is tested with, and oldestPostgres the oldest that it takes.
const (
	OldestPostgres = "14.0.0"
	oldestPostgres = 14
)

const installPostgres = "install PostgreSQL 14 or newer (Debian and Ubuntu: apt-get install postgresql)"

// binaries are where PostgreSQL's programs are, and what their environment needs.
type binaries struct {
	dir string
	env []string
}

// findPostgres is a PostgreSQL that is installed, or one of a Debian package that is unpacked in the cache, or as root one that it installs.
func findPostgres(ctx context.Context) (binaries, error) {
	if b, ok := installedPostgres(ctx); ok {
		return b, nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return binaries{}, fmt.Errorf("%w: PostgreSQL; %s", ErrMissing, installPostgres)
	}
	if os.Getuid() != 0 {
		return unpackedPostgres(ctx)
	}
	// Root's cache is no place for what an ordinary user runs, and root may install.
	_ = run(ctx, command{args: []string{"apt-get", "update", "-q"}}) // when it fails, the lists that are there may do
	if err := run(ctx, command{args: []string{"apt-get", "install", "-y", "-q", "postgresql"}, env: []string{"DEBIAN_FRONTEND=noninteractive"}}); err != nil {
		return binaries{}, fmt.Errorf("%w: PostgreSQL, and it could not be installed: %w", ErrMissing, err)
	}
	if b, ok := installedPostgres(ctx); ok {
		return b, nil
	}
	return binaries{}, fmt.Errorf("%w: PostgreSQL %d or newer; this system's package is older", ErrMissing, oldestPostgres)
}

var postgresVersion = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// installedPostgres is the newest PostgreSQL with a server: of those where Debian has them, where pg_config says, or in PATH.
func installedPostgres(ctx context.Context) (binaries, bool) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is good
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	if initdb, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(initdb))
	}
	best, newest := binaries{}, oldestPostgres-1
	for _, dir := range dirs {
		if major := majorOf(ctx, binaries{dir: dir}); major > newest {
			best, newest = binaries{dir: dir}, major
		}
	}
	return best, newest >= oldestPostgres
}

// majorOf is the version of a PostgreSQL, 0 when it is not complete or does not run.
func majorOf(ctx context.Context, b binaries) int {
	major := 0
	for _, program := range []string{"initdb", "postgres"} {
		cmd := exec.CommandContext(ctx, filepath.Join(b.dir, program), "--version") //nolint:gosec // installed programs
		cmd.Env = append(os.Environ(), b.env...)
		out, err := cmd.Output()
		version := postgresVersion.FindSubmatch(out)
		if err != nil || version == nil {
			return 0
		}
		major, _ = strconv.Atoi(string(version[1]))
	}
	return major
}

// unpackedPostgres unpacks Debian's packages into the cache: an ordinary user may do that, and nothing of the system changes.
func unpackedPostgres(ctx context.Context) (binaries, error) {
	out, err := exec.CommandContext(ctx, "apt-cache", "depends", "postgresql").Output()
	server := regexp.MustCompile(`postgresql-(\d+)`).FindString(string(out))
	if err != nil || server == "" {
		return binaries{}, fmt.Errorf("%w: PostgreSQL, and apt knows no package of it (apt-get update makes its lists); %s", ErrMissing, installPostgres)
	}
	dir, err := cached(ctx, server, func(dir string) error {
		if err := unpack(ctx, server, dir); err != nil {
			return fmt.Errorf("%w: PostgreSQL, and its package could not be unpacked: %w; %s", ErrMissing, err, installPostgres)
		}
		return nil
	})
	if err != nil {
		return binaries{}, err
	}
	b := unpackedIn(dir, server)
	if majorOf(ctx, b) < oldestPostgres {
		return binaries{}, fmt.Errorf("%w: PostgreSQL %d or newer (what was unpacked in %s is older or does not run); %s", ErrMissing, oldestPostgres, dir, installPostgres)
	}
	return b, nil
}

// unpackedIn says how to run what was unpacked: the libraries beside the server are found by an environment variable, its own files by where it is.
func unpackedIn(dir, server string) binaries {
	libraries, _ := filepath.Glob(filepath.Join(dir, "usr/lib/*-linux-gnu*")) // the pattern is good
	return binaries{
		dir: filepath.Join(dir, "usr/lib/postgresql", strings.TrimPrefix(server, "postgresql-"), "bin"),
		env: []string{"LD_LIBRARY_PATH=" + strings.Join(append(libraries, filepath.Join(dir, "usr/lib")), ":")},
	}
}

// unpack downloads a package with those it needs that are not installed, and unpacks them into a folder.
func unpack(ctx context.Context, server, dir string) error {
	out, err := exec.CommandContext(ctx, "apt-get", "--simulate", "--no-install-recommends", "install", server).Output() //nolint:gosec // the name is Debian's
	if err != nil {
		return fmt.Errorf("ask apt-get what %s needs: %w", server, err)
	}
	packages := []string{server}
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "Inst" && !slices.Contains(packages, words[1]) {
			packages = append(packages, words[1])
		}
	}
	if err := run(ctx, command{args: append([]string{"apt-get", "download", "-q"}, packages...), dir: dir}); err != nil {
		return err
	}
	files, _ := filepath.Glob(filepath.Join(dir, "*.deb")) // the pattern is good
	for _, file := range files {
		if err := run(ctx, command{args: []string{"dpkg-deb", "-x", file, dir}}); err != nil {
			return err
		}
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	return nil
}
