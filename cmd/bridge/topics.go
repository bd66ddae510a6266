package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"event2mqtt/internal/api"
	"event2mqtt/internal/topic"
)

// topicList is topics with their last values.
type topicList struct {
	Topics  []lastValue `json:"topics"`
	LeftOut bool        `json:"left_out"`
}

// lastValue is the last value of a topic.
type lastValue struct {
	Topic    string    `json:"topic"`
	Value    string    `json:"value"`
	Time     *api.Time `json:"time"`
	Count    int       `json:"count"`
	Size     int       `json:"size"`
	Retained bool      `json:"retained"`
}

// topicsCommand shows topics, and removes what is retained.
func topicsCommand(f *flags) *cobra.Command {
	a := &asking{flags: f}
	var tree, retained bool
	cmd := a.command(&cobra.Command{
		Use:   "topics [PREFIX|FILTER]",
		Short: "Show topics with their last values, or delete what one retains",
		Long: `Shows the topics that the bundled broker retains something for, and those that
this program has published to lately, each with its last value.

With an argument, only topics that begin so; or that a filter with + or # lets
through.`,
		Example: "  event2mqtt topics\n  event2mqtt topics --tree --retained\n  event2mqtt topics 'tele/+/state'\n  event2mqtt topics delete tele/old/state",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			which := strings.Join(args, "")
			prefix, filter := which, ""
			if at := strings.IndexAny(which, "+#"); at >= 0 {
				if prefix, filter = which[:at], which; !topic.ValidFilter(filter) {
					return misused("%q is not a topic filter; + stands for one level, # for all that follow", filter)
				}
				prefix = strings.TrimSuffix(prefix, "/") // a/# is about a, too
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := topics(cmd.Context(), c, prefix)
			if err != nil {
				return err
			}
			kept := list.Topics[:0]
			for _, t := range list.Topics {
				if (t.Retained || !retained) && (filter == "" || topic.Matches(filter, t.Topic)) {
					kept = append(kept, t)
				}
			}
			list.Topics = kept
			out := cmd.OutOrStdout()
			switch {
			case a.json:
				err = printJSON(out, list)
			case len(list.Topics) == 0:
				_, err = fmt.Fprintln(out, "there is no such topic yet")
			case tree:
				err = printTree(out, list.Topics)
			default:
				err = printTopics(out, list.Topics)
			}
			if err == nil && list.LeftOut && !a.json {
				fmt.Fprintln(cmd.ErrOrStderr(), "There are more than 2,000; the rest is left out. Name a prefix to see others.")
			}
			return err
		},
	})
	cmd.Flags().BoolVar(&tree, "tree", false, "show them as a tree")
	cmd.Flags().BoolVar(&retained, "retained", false, "only those that the bundled broker retains something for")
	cmd.ValidArgsFunction = first(a.complete(topicNames))
	cmd.AddCommand(topicsDelete(f))
	return cmd
}

// value is what a topic has, in one line that fits the terminal.
func (t *lastValue) value(at terminal, taken int) string {
	text := shown(t.Value)
	if len(t.Value) < t.Size {
		text += "…"
	}
	if at.width > 0 {
		text = cut(text, max(20, at.width-taken))
	}
	return text
}

// facts are when a value came, and whether it is retained.
func (t *lastValue) facts() (when, retained string) {
	when, retained = "-", "-"
	if t.Time != nil {
		when = clock(t.Time.Time, time.TimeOnly, time.DateTime)
	}
	if t.Retained {
		retained = "retained"
	}
	return when, retained
}

func printTopics(w io.Writer, list []lastValue) error {
	at := terminalOf(w)
	longest := 0
	for _, t := range list {
		longest = max(longest, len([]rune(shown(t.Topic))))
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "TOPIC\tRETAINED\tTIME\tVALUE")
	for i := range list {
		when, retained := list[i].facts()
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", shown(list[i].Topic), retained, when, list[i].value(at, longest+34))
	}
	return table.Flush()
}

// printTree prints topics, which are in order, level by level.
func printTree(w io.Writer, list []lastValue) error {
	at := terminalOf(w)
	var open []string // the levels of the line before
	for i := range list {
		levels := strings.Split(list[i].Topic, "/")
		same := 0
		for same < len(levels)-1 && same < len(open) && open[same] == levels[same] {
			same++
		}
		for depth := same; depth < len(levels); depth++ {
			line := strings.Repeat("  ", depth) + orDash(levels[depth])
			if depth == len(levels)-1 {
				if list[i].Retained {
					line += " " + at.paint(dim, "(retained)")
				}
				line += " = " + list[i].value(at, len(line)+3)
			}
			if _, err := fmt.Fprintln(w, line); err != nil {
				return err
			}
		}
		open = levels
	}
	return nil
}

func topicsDelete(f *flags) *cobra.Command {
	a := &asking{flags: f}
	cmd := a.command(&cobra.Command{
		Use:   "delete TOPIC",
		Short: "Delete the message that the bundled broker retains for a topic",
		Long: `Deletes the message that the bundled broker retains for a topic, as an empty
retained message does.`,
		Example: "  event2mqtt topics delete tele/old/state",
		Args:    needs("TOPIC", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := topic.CheckName(args[0]); err != nil {
				return misused("%w", err)
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Do(cmd.Context(), http.MethodDelete, "retained/"+url.PathEscape(args[0]), nil, nil, 0); err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), map[string]string{"deleted": args[0]})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s retains nothing any more\n", shown(args[0]))
			return err
		},
	})
	cmd.ValidArgsFunction = first(a.complete(retainedNames))
	return cmd
}
