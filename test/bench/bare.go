package main

import (
	"bufio"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"

	paho "github.com/eclipse/paho.mqtt.golang"
)

// bare is the least that could take the same events to the same broker through
// the same client: nothing is kept, checked or added.
//
//	webhook ADDRESS BROKER    a net/http handler that publishes the body
//	tail FILE BROKER          a line reader that publishes each line
//	link N BROKER             the N-th client of links alone
func bare(args []string) {
	if args[0] == "link" {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			log.Fatal(err)
		}
		bareLink(links[n].version, args[2])
		return
	}
	o := paho.NewClientOptions().AddBroker("mqtt://" + args[2]).SetClientID("bare").SetProtocolVersion(4).SetAutoReconnect(false)
	client := paho.NewClient(o)
	if t := client.Connect(); t.Wait() && t.Error() != nil {
		log.Fatal(t.Error())
	}
	switch args[0] {
	case "webhook":
		http.HandleFunc("/hooks/default", func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			if t := client.Publish("event2mqtt/event/Bench", 1, false, body); t.Wait() && t.Error() != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			w.WriteHeader(http.StatusAccepted)
		})
		log.Fatal(http.ListenAndServe(args[1], nil))
	case "tail":
		f, err := os.Open(args[1])
		if err != nil {
			log.Fatal(err)
		}
		tokens := make(chan paho.Token, 128)
		go func() {
			for lines := bufio.NewScanner(f); lines.Scan(); {
				tokens <- client.Publish("event2mqtt/event/Bench", 1, false, []byte(lines.Text()))
			}
			close(tokens)
		}()
		for t := range tokens {
			if t.Wait() && t.Error() != nil {
				log.Fatal(t.Error())
			}
		}
		select {} // until it has been measured
	}
}
