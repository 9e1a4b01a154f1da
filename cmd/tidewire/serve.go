package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/app"
)

// defaultConfig is the file looked for when no --config is given.
const defaultConfig = "tidewire.yaml"

func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "config", "c", defaultConfig, "the config file; - reads standard input")
}

func newServe() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use: "serve", Short: "Run a hub", Args: noArgs,
		Long: `Run a hub on a config until it gets SIGTERM or SIGINT, then stop it gracefully: what is under way is finished
within server.shutdown_timeout. A second signal ends it at once; nothing that was accepted is lost either way.
It logs to standard error; "hub is ready" says that it takes webhooks, and where.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return serve(cmd.Context(), path, cmd.ErrOrStderr())
		},
	}
	configFlag(cmd, &path)
	return cmd
}

func serve(ctx context.Context, path string, stderr io.Writer) error {
	var logger *slog.Logger
	plan, err := loadPlan(path, func(c config.Log) *slog.Logger {
		logger = newLogger(c, stderr)
		return logger
	})
	if err != nil {
		return err
	}
	for _, w := range plan.Warnings {
		logger.Warn("config", "warning", w.Message, "fix", w.Fix, "setting", w.Path, "at", config.Pos{File: w.File, Line: w.Line, Column: w.Column}.String())
	}
	defer tune(plan.Config.Cluster == nil)()
	return app.Serve(ctx, plan, app.Options{Version: version, Logger: logger})
}

// loadPlan explains the one mistake everybody makes first.
func loadPlan(path string, logger func(config.Log) *slog.Logger) (*app.Plan, error) {
	if _, err := os.Stat(path); path == defaultConfig && os.IsNotExist(err) {
		return nil, usageError{fmt.Errorf("there is no %s here; name a config with --config, or see one work with 'tidewire quickstart'", path)}
	}
	return app.Load(path, logger)
}

// silent is for commands that say themselves what there is to say.
func silent(config.Log) *slog.Logger { return slog.New(slog.DiscardHandler) }
