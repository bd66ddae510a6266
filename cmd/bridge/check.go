package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
)

// checkCommand tells whether run would accept the configuration.
func checkCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration and tell everything that is wrong with it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateDir(f.stateDir)
			if err != nil {
				return err
			}
			if _, err := bridge.Load(f.config, os.Environ(), dir); err != nil {
				return explain(err)
			}
			what := f.config
			if what == "" {
				what = "the default configuration"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is good\n", what)
			return err
		},
	}
}
