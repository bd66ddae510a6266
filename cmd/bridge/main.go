// Command bridge takes events from webhooks, files and printers and publishes
// each as one MQTT message. Without a broker to publish to, it is the broker.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// programName is what the program calls itself: what it was called by. bridge
// is only the name of its folder here, and of another program on many machines.
func programName(args []string) string {
	const installed = "event2mqtt"
	if len(args) == 0 {
		return installed
	}
	name := strings.TrimSuffix(filepath.Base(args[0]), ".exe")
	if name == "bridge" || name == "." || name == string(filepath.Separator) {
		return installed
	}
	return name
}

func main() {
	name := programName(os.Args)
	if err := newCommand(name).Execute(); err != nil {
		fmt.Fprintln(os.Stderr, name+": "+err.Error())
		os.Exit(exitStatus(err))
	}
}
