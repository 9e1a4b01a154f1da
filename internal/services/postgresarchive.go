package services

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// archivedPostgres is the archive of a version of PostgreSQL's server, which is downloaded by Maven when it is not in the cache: io.zonky.test.postgres publishes them for
// Linux, as a jar that holds a tar file. It is unpacked for each server anew (see unarchive), because root's cache is no place for what an ordinary user runs.
func archivedPostgres(ctx context.Context, version string) (string, error) {
	architecture := map[string]string{"amd64": "amd64", "arm64": "arm64v8"}[runtime.GOARCH]
	if runtime.GOOS != "linux" || architecture == "" {
		return "", fmt.Errorf("%w: PostgreSQL %s, which is had for Linux on amd64 and arm64 alone", ErrMissing, version)
	}
	for _, program := range []string{"tar", "xz"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%w: %s, which unpacks PostgreSQL %s; install it (Debian and Ubuntu: apt-get install tar xz-utils)", ErrMissing, program, version)
		}
	}
	name := "embedded-postgres-binaries-linux-" + architecture
	dir, err := cached(ctx, "postgres-"+version, func(dir string) error {
		err := maven(ctx, dir, "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy", "-Dartifact=io.zonky.test.postgres:"+name+":"+version, "-DoutputDirectory="+dir)
		if err != nil {
			return fmt.Errorf("%w: PostgreSQL %s: %w", ErrMissing, version, err)
		}
		return extract(filepath.Join(dir, name+"-"+version+".jar"), filepath.Join(dir, "postgres.txz"))
	})
	return filepath.Join(dir, "postgres.txz"), err
}

// extract writes the one tar file that a jar holds.
func extract(jar, file string) (err error) {
	r, err := zip.OpenReader(jar)
	if err != nil {
		return fmt.Errorf("open %s: %w", jar, err)
	}
	defer func() { _ = r.Close() }()
	for _, f := range r.File {
		if !strings.HasSuffix(f.Name, ".txz") {
			continue
		}
		from, err := f.Open()
		if err != nil {
			return fmt.Errorf("open %s in %s: %w", f.Name, jar, err)
		}
		defer func() { _ = from.Close() }()
		to, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(to, from) //nolint:gosec // a file of a fixed release
		if err := errors.Join(err, to.Close()); err != nil {
			return fmt.Errorf("unpack %s: %w", jar, err)
		}
		return nil
	}
	return fmt.Errorf("unpack %s: it holds no tar file", jar)
}

// unarchive unpacks a server into a folder, unless it is there from an earlier start.
func unarchive(ctx context.Context, archive, dir string) (binaries, error) {
	b := binaries{dir: filepath.Join(dir, "bin")}
	if majorOf(ctx, b) > 0 {
		return b, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // another user may run it
		return b, err
	}
	if err := run(ctx, command{args: []string{"tar", "-xJf", archive, "-C", dir, "--no-same-owner"}, dir: dir}); err != nil {
		return b, fmt.Errorf("unpack %s: %w", archive, err)
	}
	if majorOf(ctx, b) < oldestPostgres {
		return b, fmt.Errorf("%w: a PostgreSQL that runs here (what was unpacked in %s does not)", ErrMissing, dir)
	}
	return b, nil
}
