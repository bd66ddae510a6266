package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"event2mqtt/internal/apiclient"
	"event2mqtt/internal/control"
)

// healthPatience is how long the program may take to say that it lives.
const healthPatience = 3 * time.Second

// healthcheckCommand is for what watches over containers and services.
func healthcheckCommand(f *flags) *cobra.Command {
	a := &asking{flags: f}
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Exit with 0 if the running program answers, for Docker and the like",
		Long: `Asks the running program whether it lives, for 3 seconds at most, and prints
nothing if it does. The exit status is 0 then, and else 1. It needs neither a
token nor the state folder: where there is none, it asks at http.listen of
--config, of $E2M_HTTP_LISTEN, or by default.

A broker that is away is no reason to restart anything: "event2mqtt status"
tells of that.`,
		Example: "  event2mqtt healthcheck\n  HEALTHCHECK CMD [\"/event2mqtt\", \"healthcheck\"]      # in a Dockerfile",
		Args:    func(cmd *cobra.Command, args []string) error { return unhealthy(cobra.NoArgs(cmd, args)) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), healthPatience)
			defer cancel()
			url, err := a.healthAddress()
			if err == nil {
				c := apiclient.New(apiclient.Target{URL: url})
				defer c.Close()
				if err = c.Healthy(ctx); errors.Is(err, context.DeadlineExceeded) {
					err = fmt.Errorf("%s does not answer within %s", url, healthPatience)
				}
			}
			if a.json {
				_ = printJSON(cmd.OutOrStdout(), map[string]any{"healthy": err == nil, "url": url})
			}
			return err
		},
	}
	cmd.Flags().StringVar(&a.url, "url", "", "ask the program at this address, such as http://printer.lan:8127")
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
	_ = cmd.RegisterFlagCompletionFunc("url", cobra.NoFileCompletions) // fails only for flags that do not exist
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return unhealthy(err) })
	return cmd
}

// unhealthy is an error with the exit status 1, also if the command line is wrong:
// Docker reserves 2.
func unhealthy(err error) error {
	if err == nil {
		return nil
	}
	return &failure{1, err}
}

// healthAddress is where to ask. What the program has noted in a state folder that
// can be read goes first: its port may be one that was free.
func (a *asking) healthAddress() (string, error) {
	if a.url != "" {
		return apiclient.ParseURL(a.url)
	}
	if dir, err := stateDir(a.flags.stateDir, io.Discard, false); err == nil {
		c, err := control.Read(dir)
		if err == nil {
			return c.URL, nil
		}
		if named, _ := namedStateDir(a.flags.stateDir); named != "" && errors.Is(err, control.ErrNotRunning) {
			return "", fmt.Errorf("no event2mqtt runs with the state folder %s", dir) // another may run elsewhere
		}
	}
	return "http://" + localAddress(a.flags), nil
}
