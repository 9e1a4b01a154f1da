package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/app"
	"github.com/tidewire/tidewire/internal/load/day"
)

// quickstartConfig is where the example lies in a checkout.
const quickstartConfig = "deploy/quickstart/tidewire.yaml"

func newQuickstart() *cobra.Command {
	var path string
	var pace time.Duration
	cmd := &cobra.Command{
		Use: "quickstart", Short: "Start a hub and play a day of payments at it", Args: noArgs,
		Long: `Start a hub and a small back office on this machine and play a day of a shop's payments at them: signed
Stripe events, one of them twice, one forged, one that cannot be mapped, and a back office that fails and
recovers. Shows what becomes of each, closes the books, and leaves the hub running until Ctrl-C.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return quickstart(cmd.Context(), path, pace, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", quickstartConfig, "the quickstart's config file")
	cmd.Flags().DurationVar(&pace, "pace", 0, "pause between two events (default 250ms: the day takes half a minute)")
	return cmd
}

func quickstart(ctx context.Context, path string, pace time.Duration, out io.Writer) (err error) {
	var logFile *os.File
	plan, err := loadPlan(path, func(c config.Log) *slog.Logger {
		// The terminal is the day's; the hub's own log goes beside its data once there is a folder for it.
		return newLogger(c, lazyFile{&logFile})
	})
	if err != nil {
		return err
	}
	stage, err := stageOf(plan.Config)
	if err != nil {
		return err
	}
	logPath := filepath.Join(plan.Config.DataDir, "hub.log")
	if err := os.MkdirAll(plan.Config.DataDir, 0o700); err != nil {
		return fmt.Errorf("%w: data_dir: %w", app.ErrEnvironment, err)
	}
	if logFile, err = os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return fmt.Errorf("%w: %w", app.ErrEnvironment, err)
	}
	defer logFile.Close()
	office, err := day.OpenBackOffice(stage.officeAddress, stage.officeSecret)
	if err != nil {
		return fmt.Errorf("%w: the back office: %w", app.ErrEnvironment, err)
	}
	defer func() { err = errors.Join(err, office.Close()) }()

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ready, ended := make(chan [2]net.Addr, 1), make(chan error, 1)
	go func() {
		ended <- app.Serve(ctx, plan, app.Options{
			Version: version, Logger: newLogger(plan.Config.Log, logFile),
			Ready: func(listen, admin net.Addr) { ready <- [2]net.Addr{listen, admin} },
		})
	}()
	var at [2]net.Addr
	select {
	case at = <-ready:
	case err := <-ended:
		return err
	}
	fmt.Fprintf(out, "A hub runs on %s: webhooks at http://%s/in/stripe, admin at http://%s, its log in %s\n\n", path, at[0], at[1], logPath)
	c := day.Config{
		Hub: at[0].String(), Admin: at[1].String(), Secret: stage.stripeSecret, Office: office,
		Ledger: stage.ledger, Pace: pace, Color: day.Terminal(out),
	}
	books, playErr := day.Play(ctx, out, c)
	if playErr == nil && len(books.Problems) > 0 {
		playErr = errors.New("the books do not add up; the lines above say where")
	}
	if playErr != nil {
		stop()
		if ctxEnded := errors.Is(playErr, context.Canceled); ctxEnded {
			playErr = nil
		}
		return errors.Join(playErr, <-ended)
	}
	day.Next(out, c, "./bin/tidewire", path)
	return <-ended
}

// stage is what the day needs to know of the quickstart's config.
type stage struct{ stripeSecret, officeAddress, officeSecret, ledger string }

func stageOf(c *config.Config) (stage, error) {
	var s stage
	stripe, hasStripe := c.Connection("stripe")
	office, hasOffice := c.Connection("backoffice")
	ledger, _ := c.Connection("ledger")
	if !hasStripe || !hasOffice {
		return s, usageError{fmt.Errorf("%s is not a quickstart config: it has no connections stripe and backoffice", c.File)}
	}
	address, err := url.Parse(office.Node.Get("url").Value())
	if err != nil {
		return s, usageError{errors.New("connections.backoffice.url is not a URL")}
	}
	s.stripeSecret = stripe.Node.Get("webhook").Get("secret").Value()
	s.officeAddress = address.Host
	s.officeSecret = office.Node.Get("sign").Get("secret").Value()
	s.ledger = ledger.Node.Get("path").Value()
	return s, nil
}

// lazyFile writes to a file that is opened later; nothing is logged before.
type lazyFile struct{ file **os.File }

func (l lazyFile) Write(p []byte) (int, error) {
	if *l.file == nil {
		return len(p), nil
	}
	return (*l.file).Write(p)
}
