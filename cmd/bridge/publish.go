package main

import (
	"encoding/base64"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"event2mqtt/internal/event"
	"event2mqtt/internal/topic"
)

// publishCommand publishes a message as it is.
func publishCommand(f *flags) *cobra.Command {
	a := &asking{flags: f}
	var wait string
	var qos int
	var retain bool
	cmd := a.command(&cobra.Command{
		Use:   "publish TOPIC PAYLOAD",
		Short: "Publish a message to any topic, as it is",
		Long: `Publishes a message past the rules, through the journal of the running program:
once this command has succeeded, the message is delivered, also if the broker is
away now. A PAYLOAD of - is read from stdin; "" is an empty one, which deletes
what is retained.

With --wait it waits until the broker has acknowledged the message, and the exit
status is 1 if it does not.`,
		Example: "  event2mqtt publish lamp/set ON\n  event2mqtt publish room/target 21.5 --retain --wait 5s\n  event2mqtt publish camera/picture - < picture.jpg",
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return misused("TOPIC is missing: %s", cmd.UseLine())
			case len(args) == 1:
				return misused("PAYLOAD is missing: %s; - reads it from stdin, and \"\" is an empty one", cmd.UseLine())
			case len(args) > 2:
				return misused("there is more than one PAYLOAD; put quotes around one with spaces")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := topic.CheckName(args[0]); err != nil {
				return misused("%w", err)
			}
			if qos < 0 || qos > 2 {
				return misused("--qos %d: there are 0, 1 and 2", qos)
			}
			patience, err := parseWait(wait)
			if err != nil {
				return err
			}
			payload := []byte(args[1])
			if args[1] == "-" {
				if payload, err = input(cmd); err != nil {
					return err
				}
			}
			request := map[string]any{"topic": args[0], "qos": qos, "retain": retain, "encoding": event.EncodingPlain, "payload": string(payload)}
			if !utf8.Valid(payload) {
				request["encoding"], request["payload"] = event.EncodingBase64, base64.StdEncoding.EncodeToString(payload)
			}
			return a.send(cmd, "publish", request, patience, args[0])
		},
	})
	cmd.Flags().StringVar(&wait, "wait", "", "wait until the broker has acknowledged it, at most so long, such as 5s")
	cmd.Flags().IntVar(&qos, "qos", 1, "0, 1 or 2")
	cmd.Flags().BoolVar(&retain, "retain", false, "have the broker retain it")
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.NoFileCompletions) // fails only for flags that do not exist
	_ = cmd.RegisterFlagCompletionFunc("qos", cobra.FixedCompletions([]cobra.Completion{"0", "1", "2"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.ValidArgsFunction = first(a.complete(topicNames))
	return cmd
}
