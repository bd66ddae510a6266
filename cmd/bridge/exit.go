package main

import (
	"errors"
	"fmt"
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

// exitStatus is that of a command which has failed.
func exitStatus(err error) int {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.status
	}
	return 1
}
