package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/ruletest"
)

// testCommand tries out the rules of a configuration.
func testCommand(f *flags) *cobra.Command {
	var verbose bool
	cmd := &cobra.Command{
		Use:   "test FILE...",
		Short: "Try out the rules: what would be published of given events",
		Long: `Runs the tests in the files against the rules and topics of the configuration.
Nothing is stored or published. For a configuration with

  rules:
    - {name: no chatter, match: [Client*, "@settings"], drop: true}
    - {match: ZChange, min_interval: 5s}
    - {match: PrintDone, when: payload.time > 3600, rename: LongPrintDone, add: {room: cellar}}

a file of tests looks like this:

  tests:
    - name: long prints have a name of their own
      events:
        - {event: ClientOpened}
        - {event: PrintDone, payload: {time: 4000}}
      # file: events.jsonl                 # more events, an object on each line
      expect:                              # all that is published, in order
        - {topic: event2mqtt/event/LongPrintDone, payload: {room: cellar}, absent: [path], qos: 1, retain: false}
    - name: the last of several ZChange is published, too
      events:
        - {event: ZChange, payload: {new: 0.2}}
        - {event: ZChange, payload: {new: 0.4}, at: 2s}   # 2 s after the begin
        - {event: ZChange, payload: {new: 0.6}, at: 3s}
      expect:
        - {topic: event2mqtt/event/ZChange, payload: {new: 0.2}}
        - {topic: event2mqtt/event/ZChange, payload: {new: 0.6}}

Of a test that fails it tells, for each event, which rule decided, and where that
is written. The exit status is 1 if a test fails.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return fmt.Errorf("name a file with tests; %s --help shows what one looks like", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			plan, _, err := f.plan(cmd)
			if err != nil {
				return err
			}
			return runTests(cmd.OutOrStdout(), plan, args, verbose)
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "also tell of each test that passes what the rules make of its events, and which of them decides")
	return cmd
}

func runTests(out io.Writer, plan *bridge.Plan, files []string, verbose bool) error {
	setup := plan.RuleTest()
	passed, failed := 0, 0
	for _, file := range files {
		tests, err := ruletest.Load(file, os.Environ())
		if err != nil {
			return explain(err)
		}
		for i := range tests.Tests {
			t := &tests.Tests[i]
			result, err := setup.Run(t)
			lines := result.Wrong
			if err != nil {
				lines = append(lines, err.Error())
			}
			if len(lines) == 0 {
				passed++
				fmt.Fprintf(out, "ok    %s\n", t.Name)
			} else {
				failed++
				fmt.Fprintf(out, "FAIL  %s\n", t.Name)
			}
			if len(lines) > 0 || verbose {
				lines = append(lines, result.Decisions...)
			}
			for _, line := range lines {
				fmt.Fprintln(out, "      "+strings.ReplaceAll(line, "\n", "\n      "))
			}
		}
	}
	fmt.Fprintf(out, "%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		return errors.New("some tests failed")
	}
	return nil
}
