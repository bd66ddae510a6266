package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"event2mqtt/internal/apiclient"
	"event2mqtt/internal/control"
)

// Exit statuses beside 0 and 1.
const (
	exitUsage      = 2 // the command line is wrong; nothing was tried
	exitNotRunning = 3 // there is no program to ask
	exitRefused    = 4 // somebody who may say no did
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

// misuse is an error with exitUsage, unless it has an exit status already.
func misuse(err error) error {
	if _, known := errors.AsType[*failure](err); known || err == nil {
		return err
	}
	return &failure{exitUsage, err}
}

// misuses has all commands fail with exitUsage for flags and arguments that they
// do not take, unless they say otherwise.
func misuses(root *cobra.Command) {
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return misuse(err) }) // those below inherit it
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if check := cmd.Args; check != nil {
			cmd.Args = func(cmd *cobra.Command, args []string) error { return misuse(check(cmd, args)) }
		}
		for _, below := range cmd.Commands() {
			walk(below)
		}
	}
	walk(root)
}

// unasked is the error of a command that could not ask the running program:
// none runs, or the state folder that says where it is belongs to another user.
func unasked(err error) error {
	if err == nil {
		return nil
	}
	if _, known := errors.AsType[*failure](err); known {
		return err
	}
	folder, found := errors.AsType[*noStateDir](err)
	switch {
	case errors.Is(err, control.ErrNotRunning), errors.Is(err, apiclient.ErrNotRunning), found && !folder.locked:
		return &failure{exitNotRunning, err}
	case errors.Is(err, control.ErrRefused), errors.Is(err, fs.ErrPermission), found:
		return &failure{exitRefused, err}
	}
	return err
}

// exitStatus is that of a command which has failed.
func exitStatus(err error) int {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.status
	}
	return 1
}
