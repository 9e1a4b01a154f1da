package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/internal/app"
	"github.com/tidewire/tidewire/internal/load"
	"github.com/tidewire/tidewire/internal/load/bench"
)

func newBench() *cobra.Command {
	var c bench.Config
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure a hub against the least any durable relay has to do", Args: noArgs,
		Long: `Measure on this machine, over loopback, in one run: a bare program that appends, syncs and posts on (the
durable limit), and a hub end to end with every event accounted for: at saturation, at a fixed rate, with failing
deliveries, with many routes, with a target that never answers, with millions of events stored. Prints a
table with ratios. It needs several minutes and some 10 GB of disk; --quick needs one minute.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			binary, err := os.Executable()
			if err != nil {
				return err
			}
			c.Binary, c.Out = binary, cmd.OutOrStdout()
			c.Fill = func(ctx context.Context, dir string, n int) error {
				return app.Fill(ctx, dir, bench.Connection, bench.Route, load.StripeBody(load.ID{Source: "stored"}, "invoice.paid", time.Now().Unix(), 1024), n)
			}
			report, err := bench.Run(cmd.Context(), c)
			if err != nil {
				return err
			}
			if missed := report.Missed(); len(missed) > 0 {
				return fmt.Errorf("%d figures miss their target", len(missed))
			}
			return nil
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&c.Quick, "quick", false, "short legs and few stored events")
	fl.DurationVar(&c.Duration, "duration", 0, "length of each leg (default 15s)")
	fl.IntVar(&c.Rounds, "rounds", 0, "how often each leg runs (default 3)")
	fl.IntVar(&c.Stored, "stored", 0, "events stored for the last legs (default 5000000)")
	fl.StringVar(&c.Dir, "dir", "", "folder for the data, on the disk to be measured (default: for temporary files)")
	var cluster bench.Cluster
	fl.StringVar(&cluster.Kafka, "kafka", "", "a Kafka broker on this machine, host:port; with --postgres: the legs in cluster mode, too")
	fl.StringVar(&cluster.Postgres, "postgres", "", "URL of a PostgreSQL on this machine, of a user who may create databases")
	cmd.MarkFlagsRequiredTogether("kafka", "postgres")
	cmd.PreRun = func(*cobra.Command, []string) {
		if cluster.Kafka != "" {
			c.Cluster = &cluster
		}
	}
	fl.StringVar(&c.Page, "out", "", "Markdown file to write the table to")
	cmd.AddCommand(&cobra.Command{
		Use: "limit", Hidden: true, DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			limit, err := load.ParseLimit(args)
			if err != nil {
				return usageError{err}
			}
			return load.RunLimit(cmd.Context(), limit)
		},
	})
	return cmd
}
