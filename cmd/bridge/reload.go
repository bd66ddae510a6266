package main

import (
	"errors"
	"fmt"
	"strings"

	"event2mqtt/internal/control"

	"github.com/spf13/cobra"
)

// reloadCommand has the running program read its configuration again.
func reloadCommand(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Have the running program reload its configuration, and tell how that went",
		Long: `Has the program that runs with the state folder read its configuration again,
waits until what has changed is in use, and tells what that was. If something
is wrong, everything goes on as before, and the exit status is 1. It is 3 if no
event2mqtt runs, and 4 if the state folder belongs to another user.

The program also reloads by itself when its file changes, and on SIGHUP.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateDir(f.stateDir, cmd.ErrOrStderr(), false)
			if err != nil {
				return unasked(err)
			}
			o, err := control.Reload(cmd.Context(), dir)
			if err != nil {
				return unasked(fmt.Errorf("%s: %w", dir, whyNotAsked(dir, err)))
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
