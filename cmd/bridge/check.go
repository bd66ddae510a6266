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
	var print, probe, home bool
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
			if home {
				return printAnnouncements(cmd, plan, dir, print)
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
	cmd.Flags().BoolVar(&home, "home-assistant", false, "list the devices that would be announced to Home Assistant, with their entities and ids, and what it would complain of; with --print the messages")
	cmd.Flags().BoolVar(&probe, "probe", false, "also try out the state folder, brokers (connect, publish a message and read it back), files, addresses and OctoPrint (log in with the key); a line each")
	return cmd
}

// printAnnouncements lists what Home Assistant would be told. The error is for
// what it would complain of.
func printAnnouncements(cmd *cobra.Command, plan *bridge.Plan, stateDir string, payloads bool) error {
	all, made, err := plan.Announcements(stateDir)
	if err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "warning: what was announced before cannot be read: %v\n", err)
	}
	out := cmd.OutOrStdout()
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "nothing is announced: home_assistant.discovery is false")
		return err
	}
	if !made {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: the id of this installation is made at the first start; %s stands for it\n", bridge.ExampleInstallation)
	}
	wrong := 0
	for i := range all {
		d := &all[i]
		if payloads {
			fmt.Fprintf(out, "%s\n%s\n\n", d.Topic, d.Pretty())
		} else {
			listDevice(out, d)
		}
		for _, text := range d.Wrong {
			wrong++
			fmt.Fprintf(out, "FAIL  %s: %s\n", d.Name, text)
		}
	}
	if wrong > 0 {
		return fmt.Errorf("what Home Assistant would complain of: %d lines above, which begin with FAIL", wrong)
	}
	return nil
}

// listDevice prints a device and what it has.
func listDevice(out io.Writer, d *bridge.Preview) {
	of := "this program"
	if d.Source != "" {
		of = "source " + d.Source
	}
	fmt.Fprintf(out, "%s (%s, %s)\n", d.Name, of, d.ID)
	columns := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, part := range d.Parts {
		fmt.Fprintf(columns, "  %s\t%s\n", part.Name, part.ID)
	}
	if d.Learns {
		fmt.Fprintf(columns, "  Event\tis there once events have come: their names are learned\n")
	}
	_ = columns.Flush() // as any other line
	fmt.Fprintln(out)
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
