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
	"github.com/spf13/pflag"

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
	strictCompletion(root) // its commands take the output as it is now
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if !errors.Is(err, errSaid) {
		// That it is the environment is what the exit code says; the person reads what it is.
		fmt.Fprintln(stderr, "tidewire:", strings.TrimPrefix(strings.TrimRight(err.Error(), "\n"), app.ErrEnvironment.Error()+": "))
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
		Version:       versionLine(),
		RunE:          help,
	}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newServe(), newValidate(), newConfig(), newVerify(), newQuickstart(), newMigrate(), newBench(), newVersion())
	root.SetHelpCommand(newHelp(root))
	return root
}

// help is what a command does that only has subcommands.
func help(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// newHelp is cobra's help command, but for a word that is no command it fails.
func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "help [command]", Short: "Help about any command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil {
				return usageError{err}
			}
			if err := noArgs(cmd, rest); err != nil {
				return err
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// strictCompletion makes cobra's own command refuse what it does not know, as ours do.
func strictCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() != "completion" {
			continue
		}
		cmd.Args, cmd.RunE = noArgs, help
		for _, shell := range cmd.Commands() {
			shell.Args = noArgs
		}
	}
}

// flagError says which flag may have been meant.
func flagError(cmd *cobra.Command, err error) error {
	hint := ""
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := config.Near(unknown.GetSpecifiedName(), names); near != "" {
			hint = "; did you mean --" + near + "?"
		}
	}
	return usageError{fmt.Errorf("%w%s (see '%s --help')", err, hint, cmd.CommandPath())}
}

// noArgs refuses arguments with a sentence that helps: where there are subcommands they are mistyped ones, and what is a file's name was meant
// for --config.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	switch {
	case cmd.HasSubCommands():
		cmd.SuggestionsMinimumDistance = 2
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			hint = fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
		}
		return usageError{fmt.Errorf("'%s' has no command %q%s (see '%[1]s --help')", cmd.CommandPath(), args[0], hint)}
	case cmd.Flags().Lookup("config") != nil:
		hint = "; a config is named with --config " + args[0]
	case cmd.Flags().Lookup("scheme") != nil:
		hint = "; the request is read from standard input: < " + args[0]
	}
	return usageError{fmt.Errorf("'%s' takes no arguments, and got %q%s (see '%[1]s --help')", cmd.CommandPath(), args[0], hint)}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), versionLine())
			return err
		},
	}
}

func versionLine() string {
	return fmt.Sprintf("tidewire %s %s %s/%s", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
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
