//go:build !linux

package bridge

import (
	"errors"
	"net"
)

// listenBeside is for Linux alone; elsewhere such a change takes a restart.
func listenBeside(net.Listener, string) (l net.Listener, closed func(), err error) {
	return nil, nil, errors.ErrUnsupported
}
