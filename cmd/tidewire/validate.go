package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/app"
)

func newValidate() *cobra.Command {
	var path string
	var asJSON, quiet bool
	cmd := &cobra.Command{
		Use: "validate", Short: "Check a config, offline", Args: noArgs,
		Long: `Check a config as 'serve' would, without asking anything over the network: keys, types, secrets,
connections, routes and every expression. All mistakes are reported at once, each with its place and what to do.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return validate(path, asJSON, quiet, cmd.OutOrStdout())
		},
	}
	configFlag(cmd, &path)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the result as JSON, for CI")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print problems only")
	return cmd
}

// validation is the --json answer.
type validation struct {
	Valid       bool            `json:"valid"`
	Problems    config.Problems `json:"problems"`
	Warnings    config.Problems `json:"warnings"`
	Connections int             `json:"connections"`
	Routes      int             `json:"routes"`
}

func validate(path string, asJSON, quiet bool, out io.Writer) error {
	plan, err := loadPlan(path, silent)
	problems, invalid := errors.AsType[config.Problems](err)
	if err != nil && !invalid {
		return err
	}
	v := validation{Valid: !invalid, Problems: problems, Warnings: config.Problems{}}
	if plan != nil {
		v.Problems = config.Problems{}
		v.Warnings = append(v.Warnings, plan.Warnings...)
		v.Connections, v.Routes = len(plan.Connections), len(plan.Routes)
		if err := plan.Close(); err != nil {
			return err
		}
	}
	switch {
	case asJSON:
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		if err := e.Encode(v); err != nil {
			return err
		}
		if invalid {
			return fmt.Errorf("%w: %w", errSaid, problems)
		}
		return nil
	case invalid:
		return problems
	case quiet:
		return nil
	}
	for _, w := range v.Warnings {
		fmt.Fprintln(out, "warning:", w.Error())
	}
	if path == "-" {
		path = "standard input"
	}
	fmt.Fprintf(out, "%s is valid: %s, %s\n", path, count(v.Connections, "connection"), count(v.Routes, "route"))
	return nil
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func newConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "About config files", Args: noArgs,
		RunE: help,
	}
	cmd.AddCommand(&cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of the config, for editors", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			schema, err := config.Schema(app.ConnectorSettings())
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(append(schema, '\n'))
			return err
		},
	})
	return cmd
}
