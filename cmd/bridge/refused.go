package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/control"
)

// refusedCommand looks after events that the destination has refused.
func refusedCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "refused",
		Short: "List the events that a destination will never take, send them again, or drop them",
		Long: `Lists the events that a sink has skipped since its destination does not take
them: those too large for the broker, for a topic that it forbids, or with a QoS
or a retain flag that it refuses. The running program keeps the newest 1,000 of
them, and at most 64 MiB, as files in the folder "refused" of its state folder.

Change what was in the way, such as max_packet_size of Mosquitto, and send them
again. Each goes only to the sink that refused it, behind all events that wait
there. An event that several sinks refused has a line for each of them, and its
id stands for all of these.`,
		Example: "  event2mqtt refused\n  event2mqtt refused send --all\n  event2mqtt refused drop ID",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateDir(f.stateDir, cmd.ErrOrStderr(), false)
			if err != nil {
				return unasked(err)
			}
			list, err := control.Refused(cmd.Context(), dir)
			if err != nil {
				return unasked(whyNotAsked(dir, err))
			}
			return printRefused(cmd, list)
		},
	}
	cmd.AddCommand(refusedDo(f, "send", "sent again"), refusedDo(f, "drop", "dropped"))
	return cmd
}

// whyNotAsked is why the program that uses a folder could not be asked: none runs
// there, which may be since the folder is not for this version.
func whyNotAsked(dir string, err error) error {
	if errors.Is(err, control.ErrNotRunning) {
		if newer := bridge.CheckFolder(dir); newer != nil {
			return newer
		}
	}
	return err
}

func printRefused(cmd *cobra.Command, list control.RefusedList) error {
	out := cmd.OutOrStdout()
	if len(list.Events) == 0 && list.Problems == nil {
		_, err := fmt.Fprintln(out, "no event was refused")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "ID\tREFUSED\tSINK\tSOURCE\tEVENT\tBYTES\tREASON")
	for _, e := range list.Events {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%s\n", e.ID, e.Refused.Local().Format(time.DateTime), quoteIfOdd(e.Sink), quoteIfOdd(e.Source), quoteIfOdd(e.Name), e.Bytes, quoteIfOdd(e.Reason))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if list.Problems != nil {
		return errors.New(strings.Join(list.Problems, "\n"))
	}
	return nil
}

// quoteIfOdd keeps what others have sent from steering the terminal.
func quoteIfOdd(s string) string {
	if q := fmt.Sprintf("%+q", s); q != `"`+s+`"` {
		return q
	}
	return s
}

func refusedDo(f *flags, do, done string) *cobra.Command {
	var all bool
	short := map[string]string{"send": "Send refused events again", "drop": "Forget refused events"}[do]
	cmd := &cobra.Command{
		Use:     do + " [ID...]",
		Short:   short,
		Example: "  event2mqtt refused " + do + " --all",
		RunE: func(cmd *cobra.Command, ids []string) error {
			if all == (len(ids) > 0) {
				return misused("say which: the ids that \"event2mqtt refused\" lists, or --all")
			}
			dir, err := stateDir(f.stateDir, cmd.ErrOrStderr(), false)
			if err != nil {
				return unasked(err)
			}
			o, err := control.DoRefused(cmd.Context(), dir, control.RefusedRequest{Do: do, IDs: ids, All: all})
			if err != nil {
				return unasked(whyNotAsked(dir, err))
			}
			if len(o.Done) > 0 || o.Problems == nil {
				if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", counted(len(o.Done), "event"), done); err != nil {
					return err
				}
			}
			if o.Problems != nil {
				return errors.New(strings.Join(o.Problems, "\n"))
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all of them")
	return cmd
}
