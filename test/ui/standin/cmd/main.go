// Cmd serves the page with the scenarios of package standin, to look at:
// go run ./standin/cmd, and open the address that it prints.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"

	"event2mqtt/test/ui/standin"
)

func main() {
	address := "127.0.0.1:0"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s := standin.NewServer()
	for _, name := range standin.Scenarios {
		go s.Sim(name).Live(nil)
	}
	fmt.Printf("http://%s/calm/\n", l.Addr())
	fmt.Fprintln(os.Stderr, http.Serve(l, s))
}
