// Compose judges a compose file with the library that Docker Compose itself reads it with: it prints what is wrong, and exits with 1. It is a module of its
// own, because nothing of Tidewire needs that library.
//
//	go run . ../../compose.yaml NAME=VALUE...
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	if err := judge(context.Background(), os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// judge loads a file with an environment, as "docker compose config" does.
func judge(ctx context.Context, path string, environment []string) error {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithEnv(environment), cli.WithProfiles([]string{"*"}))
	if err != nil {
		return err
	}
	_, err = options.LoadProject(ctx)
	return err
}
