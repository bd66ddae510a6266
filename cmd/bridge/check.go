package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
)

// checkCommand tells whether run would accept the configuration.
func checkCommand(f *flags) *cobra.Command {
	var print, probe bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration and tell everything that is wrong with it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			plan, dir, err := f.plan(cmd)
			if err != nil {
				return err
			}
			for _, text := range plan.Warnings() {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning: "+text)
			}
			if print {
				if err := printValues(cmd.OutOrStdout(), plan); err != nil || !probe {
					return err
				}
			}
			if probe {
				return probeAll(cmd, plan, dir)
			}
			what := f.config
			if what == "" {
				what = "the default configuration"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is valid\n", what)
			return err
		},
	}
	cmd.Flags().BoolVar(&print, "print", false, "print every option as it would be used, and where it comes from; secrets are masked")
	cmd.Flags().BoolVar(&probe, "probe", false, "also try out the state folder, brokers (connect, publish a message and read it back), files, addresses and OctoPrint (log in with the key); a line each")
	return cmd
}

func probeAll(cmd *cobra.Command, plan *bridge.Plan, stateDir string) error {
	failed := 0
	err := plan.Probe(cmd.Context(), stateDir, func(p bridge.Probed) {
		if p.Err != nil {
			failed++
			fmt.Fprintf(cmd.OutOrStdout(), "FAIL  %s: %v\n", p.What, p.Err)
			return
		}
		fmt.Fprintf(cmd.OutOrStdout(), "ok    %s: %s\n", p.What, p.Detail)
	})
	if err == nil && failed > 0 {
		err = fmt.Errorf("%s failed", counted(failed, "check"))
	}
	return err
}

func printValues(w io.Writer, plan *bridge.Plan) error {
	columns := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, v := range plan.Values() {
		fmt.Fprintf(columns, "%s:\t%s\t# %s\n", v.Key, v.Text, v.Origin)
	}
	return columns.Flush()
}
