package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"event2mqtt/internal/api"
	"event2mqtt/internal/config"
)

// maxInput bounds what is read from stdin, in bytes; the program allows less.
const maxInput = 64 << 20

// maxWait is the longest that the program waits before it answers.
const maxWait = time.Minute

// accepted is what became of an event that was sent.
type accepted struct {
	ID   string   `json:"id"`
	Seq  *uint64  `json:"seq"`
	Fate api.Fate `json:"fate"`
}

// sendCommand sends an event through the rules.
func sendCommand(f *flags) *cobra.Command {
	a := &asking{flags: f}
	var source, wait string
	var dry bool
	cmd := a.command(&cobra.Command{
		Use:   "send EVENT [KEY=VALUE... | JSON | -]",
		Short: "Send an event, as a source does",
		Long: `Sends an event through the rules of the running program. What it holds is given
as KEY=VALUE, as JSON, or with - on stdin. A VALUE that is a number, true, false,
null, or JSON in brackets or quotes is sent as such, any other as text.

With --dry-run nothing is sent, and each rule says what it would do. The exit
status is 1 if --wait was given and the event is not delivered.`,
		Example: "  event2mqtt send PrintDone file=a.gcode time=4711\n  event2mqtt send Door '{\"open\": true}' --wait 5s\n" +
			"  sensors -j | event2mqtt send Sensors -\n  event2mqtt send ZChange new=0.4 --dry-run",
		Args: needs("EVENT", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			payload, err := payloadOf(cmd, args[1:])
			if err != nil {
				return err
			}
			patience, err := parseWait(wait)
			if err != nil {
				return err
			}
			request := map[string]any{"event": args[0]}
			if source != "" {
				request["source"] = source
			}
			if payload != nil {
				request["payload"] = payload
			}
			if dry {
				return a.try(cmd, args[0], request)
			}
			return a.send(cmd, "events", request, patience, args[0])
		},
	})
	cmd.Flags().StringVar(&source, "source", "", "send it in the name of this source of the configuration")
	cmd.Flags().StringVar(&wait, "wait", "", "wait until it is delivered, at most so long, such as 5s")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "send nothing, and tell what would become of it")
	a.completeFlags(cmd)
	_ = cmd.RegisterFlagCompletionFunc("wait", cobra.NoFileCompletions) // fails only for flags that do not exist
	cmd.ValidArgsFunction = first(a.complete(eventNames))
	return cmd
}

// parseWait reads how long to wait.
func parseWait(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := config.ParseDuration(text)
	if err != nil {
		return 0, misused("--wait: %w", err)
	}
	if d <= 0 || d > maxWait {
		return 0, misused("--wait %s: at most %s is allowed, and more than nothing", text, maxWait)
	}
	return d, nil
}

// payloadOf is the payload that arguments give; nil is none.
func payloadOf(cmd *cobra.Command, args []string) (json.RawMessage, error) {
	switch {
	case len(args) == 0:
		return nil, nil
	case len(args) == 1 && args[0] == "-":
		text, err := input(cmd)
		if err != nil {
			return nil, err
		}
		if !json.Valid(text) {
			return nil, misused("what stdin holds is not JSON; give KEY=VALUE instead, or wrap it up: jq -R '{line: .}'")
		}
		return text, nil
	case len(args) == 1 && (strings.HasPrefix(args[0], "{") || strings.HasPrefix(args[0], "[")):
		var v json.RawMessage
		if err := json.Unmarshal([]byte(args[0]), &v); err != nil {
			return nil, misused("the payload is not JSON: %w", err)
		}
		return json.RawMessage(args[0]), nil
	}
	var b bytes.Buffer
	seen := map[string]bool{}
	for i, arg := range args {
		key, value, ok := strings.Cut(arg, "=")
		if !ok || key == "" {
			return nil, misused("%q is not KEY=VALUE; put quotes around a value with spaces, or give the whole as JSON: '{\"file\": \"a b\"}'", arg)
		}
		if seen[key] {
			return nil, misused("%s is given twice", key)
		}
		seen[key] = true
		name, _ := json.Marshal(key) // a text cannot fail
		b.WriteByte("{,"[min(i, 1)])
		b.Write(name)
		b.WriteByte(':')
		b.Write(valueOf(value))
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// valueOf is a value as JSON: itself if it is JSON, else text.
func valueOf(value string) json.RawMessage {
	if json.Valid([]byte(value)) && strings.TrimSpace(value) == value {
		return json.RawMessage(value)
	}
	text, _ := json.Marshal(value) // a text cannot fail
	return text
}

// input reads stdin.
func input(cmd *cobra.Command) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("read stdin: %w", err)
	}
	if len(text) > maxInput {
		return nil, fmt.Errorf("read stdin: it has more than %d bytes", maxInput)
	}
	return text, nil
}

// send sends something, and tells what became of it.
func (a *asking) send(cmd *cobra.Command, path string, request any, wait time.Duration, what string) error {
	c, err := a.client(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	parameters := url.Values{}
	if wait > 0 {
		parameters.Set("wait", wait.String())
	}
	var got accepted
	if _, err := c.Do(cmd.Context(), http.MethodPost, with(path, parameters), request, &got, wait); err != nil {
		return err
	}
	if a.json {
		err = printJSON(cmd.OutOrStdout(), got)
	} else {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), shown(what)+": "+outcomeOf(&got))
	}
	if err == nil && wait > 0 && got.Fate.State != "delivered" {
		if got.Fate.State == "waiting" {
			return fmt.Errorf("the broker has not acknowledged it within %s; it is stored, and is delivered in its turn", wait)
		}
		return errors.New("it is not delivered")
	}
	return err
}

// outcomeOf says what became of an event.
func outcomeOf(got *accepted) string {
	text := fateWords(&got.Fate)
	if got.Seq == nil {
		return text
	}
	if got.Fate.State == "waiting" {
		text = "stored, and is delivered in its turn"
	}
	return fmt.Sprintf("%s (event %d, id %s)", text, *got.Seq, shown(got.ID))
}

// fateWords says what became of an event, and why.
func fateWords(f *api.Fate) string {
	text := shown(f.State)
	if f.MS != nil {
		text += " in " + milliseconds(*f.MS)
	}
	if f.Rule != nil {
		text += " by " + ruleWords(f.Rule)
	}
	if f.Why != "" && f.Why != dropsIt {
		text += ": " + shown(f.Why)
	}
	return text
}

// dropsIt is what the API says of a rule that drops an event, which "dropped by
// rule 1" says as well.
const dropsIt = "the rule drops it"

// milliseconds is a short time.
func milliseconds(ms float64) string {
	if ms < 0.1 {
		return "under 0.1 ms"
	}
	if ms < 10 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return span(time.Duration(ms * float64(time.Millisecond)))
}

// ruleWords names a rule.
func ruleWords(r *api.Rule) string {
	text := fmt.Sprintf("rule %d", r.N)
	if r.Name != "" {
		text += ` "` + shown(r.Name) + `"`
	}
	if r.Line > 0 {
		text += fmt.Sprintf(" (line %d)", r.Line)
	}
	return text
}

// try tells what would become of an event.
func (a *asking) try(cmd *cobra.Command, event string, request any) error {
	c, err := a.client(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	var t api.Tried
	if _, err := c.Do(cmd.Context(), http.MethodPost, "events?dry_run=1", request, &t, 0); err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if a.json {
		return printJSON(out, t)
	}
	if len(t.Steps) == 0 {
		_, _ = fmt.Fprintf(out, "%s: no rule is about it\n", shown(event))
	}
	for _, s := range t.Steps {
		_, _ = fmt.Fprintf(out, "%s %s\n", ruleWords(&s.Rule), shown(s.Does))
	}
	if t.Publish == nil {
		_, err = fmt.Fprintln(out, "nothing would be published now")
		return err
	}
	retained := ""
	if t.Publish.Retain {
		retained = ", retained"
	}
	_, err = fmt.Fprintf(out, "would be published to %s (QoS %d%s):\n%s\n", shown(cmp.Or(t.Publish.Topic, "no topic")), t.Publish.QoS, retained, shown(string(t.Publish.Payload)))
	return err
}
