package cluster

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
)

// sender is event2mqtt, and who posts events to it.
type sender struct {
	*process
	protocol string
	config   string // the file
	text     string // what stands in it beside what each start changes
	address  string // of HTTP
	run      int    // of its starts and reloads
	client   http.Client

	// These are post's.
	number   int   // of the newest event
	accepted []int // numbers that were answered with 2xx
}

// newSender makes one that can be started. It stops with the test.
func newSender(t *testing.T, c cell, url string, certs *certificates) *sender {
	dir := t.TempDir()
	s := &sender{protocol: c.protocol, config: filepath.Join(dir, "config.yaml"), address: testkit.FreeAddress(t), client: http.Client{Timeout: testkit.Patience}}
	t.Cleanup(s.client.CloseIdleConnections)
	s.process = newProcess(t, built("event2mqtt"), []string{"STATE_DIRECTORY=" + filepath.Join(dir, "state")}, "--config", s.config)
	files := ""
	switch c.transport {
	case "tls", "wss":
		files = fmt.Sprintf("ca: %q", certs.ca)
	case "certificate":
		files = fmt.Sprintf("ca: %q, cert: %q, key: %q", certs.ca, certs.clientCert, certs.clientKey)
	}
	s.text = fmt.Sprintf("http: {listen: %q}\nhome_assistant: {discovery: false}\nsources: [{name: hooks, type: webhook}]\n", s.address)
	s.text += "rules:\n"
	for qos, name := range qosNames {
		s.text += fmt.Sprintf("  - {match: %s, qos: %d}\n", name, qos)
	}
	s.text += fmt.Sprintf("mqtt:\n  url: %q\n  max_qos: %d\n  tls: {%s}\n", url, c.destination.most, files)
	return s
}

// configure has event2mqtt publish to topics that tell what was sent before a kill
// from what is sent after it.
func (s *sender) configure() {
	s.run++
	testkit.Write(s.t, s.config, fmt.Sprintf("%s  protocol: %q\npublish: {event_topic: \"matrix/%d/{event}\"}\n", s.text, s.protocol, s.run))
}

// restart starts event2mqtt after it was killed.
func (s *sender) restart() {
	s.configure()
	s.start()
}

// reload is for when the broker is killed.
func (s *sender) reload() {
	s.configure()
	until(s.t, "event2mqtt has taken its configuration", func() bool {
		r, err := s.client.Post("http://"+s.address+"/api/v1/reload", "", nil)
		if err != nil {
			return false // it starts
		}
		defer r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
}

// post posts until stop is closed. What is not accepted is not sent again.
func (s *sender) post(stop <-chan struct{}) {
	tick := time.NewTicker(40 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			s.postOne()
		}
	}
}

// postOne posts an event of each QoS, in one request, with the next number.
func (s *sender) postOne() (accepted bool) {
	s.number++
	var body []byte
	for _, name := range qosNames {
		body = fmt.Appendf(body, `{"event":%q,"number":%d}`, name, s.number)
	}
	r, err := s.client.Post("http://"+s.address+"/hooks/hooks", "application/json", bytes.NewReader(body))
	if err != nil {
		return false // it is killed, or starts
	}
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	if r.StatusCode/100 != 2 {
		return false
	}
	s.accepted = append(s.accepted, s.number)
	return true
}
