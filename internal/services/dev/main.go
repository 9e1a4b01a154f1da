// Dev brings Apache Kafka and PostgreSQL up for a person, and down again: deploy/dev/up and deploy/dev/down run it. One process in the background keeps both; it holds
// a lock for as long as it lives, and they die with it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/tidewire/tidewire/internal/services"
)

const usage = `usage: dev up [--brokers 1|3] [--dir DIR] | down [--dir DIR] | missing
  up       start Kafka and PostgreSQL, unless they run, and say where they are
  down     stop what up started; the data stays
  missing  download what the servers need, and say what cannot be had`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		stop()
		os.Exit(1) //nolint:gocritic // the context is stopped
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	flags := flag.NewFlagSet("dev "+args[0], flag.ContinueOnError)
	dir := flags.String("dir", ".dev", "where data, logs and addresses are kept")
	brokers := flags.Int("brokers", 0, "how many Kafka brokers, 1 or 3; without it one, or what runs already")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 || *brokers != 0 && *brokers != 1 && *brokers != 3 {
		return errors.New(usage)
	}
	p, err := placeAt(*dir)
	if err != nil {
		return err
	}
	switch args[0] {
	case "up":
		return up(ctx, p, *brokers, os.Stdout)
	case "down":
		return down(ctx, p, os.Stdout)
	case "keep":
		return keep(ctx, p, *brokers)
	case "missing":
		return missing(ctx)
	}
	return errors.New(usage)
}

// missing says in a line for each what is not here. On CI that is an error: what is never run there is not tested.
func missing(ctx context.Context) error {
	lines := services.Missing(ctx)
	if len(lines) == 0 {
		return nil
	}
	if text := strings.Join(lines, "\n"); os.Getenv("CI") != "" {
		return errors.New(text)
	}
	fmt.Fprintln(os.Stderr, strings.Join(lines, "\n"))
	return nil
}
