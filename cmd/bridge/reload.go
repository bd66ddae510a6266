package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
)

// reloadCommand has the running bridge take up its configuration anew.
func reloadCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the running bridge reload its configuration, and tell how that went",
		Long: `Has the bridge that runs with this state folder read its configuration again,
waits until what has changed is in use, and tells what that was. If something
is wrong, everything goes on as before, and the exit status is 1.

The bridge also reloads by itself when its file changes, and on SIGHUP.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateDir(f.stateDir)
			if err != nil {
				return err
			}
			o, err := bridge.AskToReload(cmd.Context(), dir)
			if err != nil {
				return err
			}
			if !o.OK {
				return explain(errors.New(strings.Join(o.Problems, "\n")))
			}
			out := cmd.OutOrStdout()
			if len(o.Changed) == 0 {
				_, err = fmt.Fprintln(out, "reloaded; nothing has changed")
				return err
			}
			_, err = fmt.Fprintf(out, "reloaded in %.0f ms:\n  %s\n", o.TookMS, strings.Join(o.Changed, "\n  "))
			return err
		},
	}
}
