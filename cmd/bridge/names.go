package main

import (
	"context"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"event2mqtt/internal/api"
	"event2mqtt/internal/apiclient"
)

// This file completes names of what the running program has: while somebody
// types, so quickly or not at all, and without a word.

// Bounds of completion.
const (
	completePatience = 2 * time.Second
	maxCompletions   = 200
)

// lister lists names that begin with what was typed, if it can.
type lister func(ctx context.Context, c *apiclient.Client, typed string) ([]string, error)

// complete offers the names that a lister finds for an argument or a flag.
func (a *asking) complete(list lister) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		parent := cmd.Context()
		if parent == nil {
			parent = context.Background()
		}
		ctx, cancel := context.WithTimeout(parent, completePatience)
		defer cancel()
		target, err := a.target(ctx, io.Discard)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c := apiclient.New(target)
		defer c.Close()
		names, err := list(ctx, c, typed)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		slices.Sort(names)
		names = slices.DeleteFunc(slices.Compact(names), func(name string) bool {
			return !strings.HasPrefix(name, typed) || name == "" || shown(name) != name // shells take it apart
		})
		return names[:min(len(names), maxCompletions)], cobra.ShellCompDirectiveNoFileComp
	}
}

// first offers names for the first argument alone.
func first(f cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return f(cmd, args, typed)
	}
}

// completeFlags offers names for the flags of a command that choose events.
func (a *asking) completeFlags(cmd *cobra.Command) {
	for flag, list := range map[string]lister{"source": sourceNames, "event": eventNames, "topic": topicNames} {
		if cmd.Flags().Lookup(flag) != nil {
			_ = cmd.RegisterFlagCompletionFunc(flag, a.complete(list)) // fails only for flags that do not exist
		}
	}
	if cmd.Flags().Lookup("state") != nil {
		_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(fateStates, cobra.ShellCompDirectiveNoFileComp))
	}
}

func sourceNames(ctx context.Context, c *apiclient.Client, _ string) ([]string, error) {
	var s struct{ Parts []api.Part }
	if err := c.Get(ctx, "state", &s); err != nil {
		return nil, err
	}
	names := []string{"api"}
	for _, p := range s.Parts {
		if p.Kind == "source" {
			names = append(names, p.Name)
		}
	}
	return names, nil
}

// eventNames are those of the newest events.
func eventNames(ctx context.Context, c *apiclient.Client, _ string) ([]string, error) {
	var page struct{ Events []struct{ Event string } }
	if err := c.Get(ctx, "events?limit=500", &page); err != nil {
		return nil, err
	}
	var names []string
	for _, e := range page.Events {
		names = append(names, e.Event)
	}
	return names, nil
}

func topicNames(ctx context.Context, c *apiclient.Client, typed string) ([]string, error) {
	list, err := topics(ctx, c, typed)
	var names []string
	for _, t := range list.Topics {
		names = append(names, t.Topic)
	}
	return names, err
}

func retainedNames(ctx context.Context, c *apiclient.Client, typed string) ([]string, error) {
	list, err := topics(ctx, c, typed)
	var names []string
	for _, t := range list.Topics {
		if t.Retained {
			names = append(names, t.Topic)
		}
	}
	return names, err
}

// watchedNames are events and topics, which watch takes both.
func watchedNames(ctx context.Context, c *apiclient.Client, typed string) ([]string, error) {
	names, err := eventNames(ctx, c, typed)
	if err != nil {
		return nil, err
	}
	more, err := topicNames(ctx, c, typed)
	return append(names, more...), err
}

func clientNames(ctx context.Context, c *apiclient.Client, _ string) ([]string, error) {
	list, err := clients(ctx, c)
	var names []string
	for _, one := range list.Clients {
		names = append(names, one.ID)
	}
	return names, err
}

func topics(ctx context.Context, c *apiclient.Client, prefix string) (list topicList, err error) {
	err = c.Get(ctx, with("topics", url.Values{"prefix": {prefix}}), &list)
	return list, err
}
