package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/app"
)

func newMigrate() *cobra.Command {
	cmd := &cobra.Command{
		Use: "migrate", Short: "Move an installation", Args: noArgs,
		RunE: help,
	}
	cmd.AddCommand(newToCluster())
	return cmd
}

// migration is one call of "migrate to-cluster".
type migration struct {
	path, dataDir      string
	yes, asJSON, quiet bool

	in       io.Reader
	out, err io.Writer
	bar      *progressbar.ProgressBar // nil: none is shown
}

func newToCluster() *cobra.Command {
	var m migration
	cmd := &cobra.Command{
		Use: "to-cluster", Short: "Carry an embedded hub's data into Kafka and PostgreSQL", Args: noArgs,
		Long: `Carry what an embedded hub holds into the cluster that the config's cluster block names: the ledger, parked
deliveries and dead letters into PostgreSQL, the events that some route has not finished and the dead-letter
topics into Kafka. Each route goes on where it was: nothing is delivered twice, left out or put out of order.

Stop the hub first. The file in data_dir is left as it is: without the cluster block, the hub starts on it again.
The cluster must be empty, and none of its hubs may run; none starts until this is finished. When it is
interrupted, run it again and it goes on. At the end it counts what is in the cluster.

Events that all routes have finished stay behind, and so do events of connections that no route reads.

  tidewire migrate to-cluster -c cluster.yaml --data-dir /var/lib/tidewire

Exit codes: 0 all carried, or nothing left to do; 1 failed, or the counts differ; 2 wrong usage or invalid
config; 3 environment (a hub runs, the cluster cannot be reached or is not empty).`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m.in, m.out, m.err = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
			return m.run(cmd.Context())
		},
	}
	configFlag(cmd, &m.path)
	cmd.Flags().StringVar(&m.dataDir, "data-dir", "", "the folder of the embedded hub's file (default: the config's data_dir)")
	cmd.Flags().BoolVarP(&m.yes, "yes", "y", false, "do not ask before beginning")
	cmd.Flags().BoolVar(&m.asJSON, "json", false, "print the counts as JSON")
	cmd.Flags().BoolVarP(&m.quiet, "quiet", "q", false, "print nothing but problems")
	return cmd
}

func (m *migration) run(ctx context.Context) (err error) {
	logger := slog.New(slog.DiscardHandler)
	plan, err := loadPlan(m.path, func(c config.Log) *slog.Logger {
		if c.Level == "info" {
			c.Level = "warn" // the bar and the table say what goes well
		}
		logger = newLogger(c, m.err)
		return logger
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plan.Close()) }()
	switch {
	case plan.Config.Cluster == nil:
		return usageError{fmt.Errorf("%s has no cluster block, which says where to carry the data; add cluster: {kafka: …, postgres: …}", m.path)}
	case !m.yes && m.path == "-":
		return usageError{errors.New("standard input is the config, so nothing can be asked: say --yes")}
	}
	o := app.MoveOptions{DataDir: m.dataDir, Logger: logger, Progress: m.progress}
	if !m.yes {
		o.Confirm = m.confirm
	}
	result, err := app.ToCluster(ctx, plan, o)
	if m.bar != nil {
		err = errors.Join(err, m.bar.Clear())
	}
	switch {
	case errors.Is(err, errDeclined):
		return err
	case err != nil && ctx.Err() != nil:
		return errors.New("interrupted; the same command goes on where it was")
	case err != nil && !errors.Is(err, app.ErrDiffers):
		return err
	}
	return errors.Join(err, m.print(result))
}

var errDeclined = errors.New("nothing was done")

// confirm shows what there is and asks.
func (m *migration) confirm(found app.Move) error {
	verb := "Carry"
	if found.Resumed {
		verb = "Go on carrying"
	}
	fmt.Fprintf(m.err, "%s from %s into %s:\n", verb, found.File, found.Target)
	for _, c := range found.Counts {
		fmt.Fprintf(m.err, "  %d %s\n", c.Found, c.What)
	}
	fmt.Fprint(m.err, "Begin? [y/N] ")
	answer, err := bufio.NewReader(m.in).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(m.err)
		return fmt.Errorf("%w: no answer was given; --yes begins without asking", errDeclined)
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errDeclined
	}
	return nil
}

// progress moves a bar where somebody looks at it.
func (m *migration) progress(what string, done, total int64) {
	if m.bar == nil {
		file, ok := m.err.(*os.File)
		if m.quiet || m.asJSON || !ok || !term.IsTerminal(int(file.Fd())) {
			return
		}
		m.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(m.err), progressbar.OptionShowCount(), progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionSetPredictTime(true))
	}
	m.bar.Describe(what)
	_ = m.bar.Set64(done) // a bar that cannot be drawn is no reason to stop
}

func (m *migration) print(result app.Move) error {
	switch {
	case m.asJSON:
		e := json.NewEncoder(m.out)
		e.SetIndent("", "  ")
		return e.Encode(result)
	case m.quiet:
		return nil
	}
	w := tabwriter.NewWriter(m.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tfound\tcarried\tdamaged\trepeated")
	for _, c := range result.Counts {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", c.What, c.Found, c.Carried, c.Damaged, c.Repeated)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	switch {
	case result.Already:
		fmt.Fprintf(m.out, "nothing left to do: finished at %s\n", result.Finished.Format(time.RFC3339))
	case !result.Finished.IsZero():
		fmt.Fprintln(m.out, "finished: hubs may start on the cluster")
	}
	return nil
}
