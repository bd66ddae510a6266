// Command bridge takes events from webhooks, files and printers and publishes
// each as one MQTT message. Without a broker to publish to, it is the broker.
package main

import (
	"fmt"
	"os"
)

func main() {
	if err := newCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "bridge: "+err.Error())
		os.Exit(1)
	}
}
