//go:build !linux

package listen

import (
	"errors"
	"net"
)

// listenBeside is for Linux alone; elsewhere such a change takes a restart.
func listenBeside([]net.Listener, string) (net.Listener, error) { return nil, errors.ErrUnsupported }

func alone(net.Listener) {}
