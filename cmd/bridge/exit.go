package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// Exit statuses beside 0 and 1.
const (
	exitUsage   = 2 // the command line is wrong; nothing was tried
	exitRefused = 4 // somebody who may say no did
)

// failure is an error with an exit status of its own.
type failure struct {
	status int
	err    error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// misused is the error of a command line that is wrong.
func misused(format string, args ...any) error {
	return &failure{exitUsage, fmt.Errorf(format, args...)}
}

// asUsage has a check of arguments fail with exitUsage.
func asUsage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &failure{exitUsage, err}
		}
		return nil
	}
}

// exitStatus is that of a command which has failed.
func exitStatus(err error) int {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.status
	}
	return 1
}
