// Command tidewire is the hub: it receives signed webhooks, keeps them in one durable log and carries them along routes into target
// systems. "tidewire --help" lists what it can do.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/app"
)

// version is set by the build.
var version = "dev"

// Exit codes, the same for every subcommand.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2 // wrong usage or an invalid config
	exitEnvironment = 3 // a port that is taken, data that another hub holds, a hub that cannot be reached
)

// usageError is a mistake in how the command was called.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second signal ends the process the hard way.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without the process around it.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if !errors.Is(err, errSaid) {
		fmt.Fprintln(stderr, "tidewire:", err)
	}
	return code
}

// errSaid marks an error that the command has told about already.
var errSaid = errors.New("said")

func exitCode(err error) int {
	if _, ok := errors.AsType[config.Problems](err); ok {
		return exitUsage
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if errors.Is(err, app.ErrEnvironment) {
		return exitEnvironment
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "tidewire",
		Short: "Keeps payment, CRM and ERP systems in step: signed webhooks in, one durable log, routes out",
		Long: `Tidewire receives signed webhooks, keeps them in one durable log and carries them along
routes, filtered and mapped, into target systems: in order per key, retried, with nothing lost.

  tidewire quickstart                 see it work: a hub, a day of payments, a back office
  tidewire validate -c tidewire.yaml  check a config without starting anything
  tidewire serve -c tidewire.yaml     run a hub

Exit codes: 0 ok, 1 failed, 2 wrong usage or invalid config, 3 environment (port taken, data in use).`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see '%s --help'", err, cmd.CommandPath())}
	})
	root.AddCommand(newServe(), newValidate(), newConfig(), newVerify(), newQuickstart(), newBench(), newVersion())
	return root
}

// noArgs refuses arguments with a sentence that helps: for the root they are mistyped subcommands.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); cmd.HasSubCommands() && len(near) > 0 {
		hint = fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return usageError{fmt.Errorf("%q is not known to '%s'%s; see '%s --help'", args[0], cmd.CommandPath(), hint, cmd.CommandPath())}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "tidewire %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}

// newLogger writes to w as the config's log block says.
func newLogger(c config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		level = slog.LevelInfo // the config has been checked; this is for an empty one
	}
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
