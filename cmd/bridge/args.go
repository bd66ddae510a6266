package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// This file is what commands say of arguments: of those that are missing or too
// many, and what shells complete.

// needs asks for one argument, or with more for at least one. what names it as
// the usage does.
func needs(what string, more bool) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == 0:
			return fmt.Errorf("%s is missing: %s", what, cmd.UseLine())
		case len(args) > 1 && !more:
			return fmt.Errorf("there is more than one %s: %s; put quotes around one with spaces", what, strings.Join(args, " "))
		}
		return nil
	}
}

// group makes a command of one that only has others below it: its help, or an
// error if one is named that does not exist.
func group(cmd *cobra.Command) *cobra.Command {
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		verb := "are"
		if len(names) == 1 {
			verb = "is"
		}
		return misused("there is no %q; there %s %s", cmd.CommandPath()+" "+args[0], verb, strings.Join(names, ", "))
	}
	return cmd
}

// completions tells shells which commands and options take files: those of test
// and import, and --config. Others would only be offered what they refuse.
func completions(root *cobra.Command) {
	_ = root.MarkPersistentFlagFilename("config", "yaml", "yml") // fails only for flags that do not exist
	_ = root.MarkPersistentFlagDirname("state-dir")
	_ = root.RegisterFlagCompletionFunc("set", cobra.NoFileCompletions)
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.ValidArgsFunction == nil && !strings.Contains(c.Use, "FILE") {
			c.ValidArgsFunction = cobra.NoFileCompletions
		}
		for flag, values := range map[string][]cobra.Completion{"for": kindNames, "allow": nil, "host": nil, "mac": nil, "compat": {compatPlugin}} {
			if c.Flags().Lookup(flag) != nil {
				_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

// counted is a number of things, such as 1 user.
func counted(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
