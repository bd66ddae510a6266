package bridge

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"event2mqtt/internal/testkit"

	"github.com/gorilla/websocket"
)

// TestPagesMayUseWhatIsConfigured, from the next request on: no listener is
// opened again for that, and clients stay.
func TestPagesMayUseWhatIsConfigured(t *testing.T) {
	own := testkit.FreeAddress(t)
	yaml := strings.Replace(plain, "listen: MQTT", "listen: MQTT, websocket: {listen: '"+own+"'}", 1)
	h := newRig(t, yaml)
	post := func(headers ...string) int {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+h.http+"/hooks/hooks/X", nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		r.Host = r.Header.Get("Host")
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	connect := func(address, origin string) (*websocket.Conn, int) {
		c, answer, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial("ws://"+address+"/mqtt", http.Header{"Origin": {origin}})
		if err != nil && !errors.Is(err, websocket.ErrBadHandshake) {
			t.Fatal(err)
		}
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return c, answer.StatusCode
	}
	const page, other = "https://panel.example", "https://mqtt.example"
	if got := post("Origin", page); got != http.StatusForbidden {
		t.Errorf("a page posts: %d", got)
	}
	if got := post("Host", "hooks.example"); got != http.StatusMisdirectedRequest {
		t.Errorf("a name: %d", got)
	}
	for _, address := range []string{h.http, own} {
		if _, got := connect(address, page); got != http.StatusForbidden {
			t.Errorf("a page connects to %s: %d", address, got)
		}
		if _, got := connect(address, "http://"+address); got != http.StatusSwitchingProtocols {
			t.Errorf("a page of %s: %d", address, got)
		}
	}
	log := h.log.String()
	for _, want := range []string{"web pages of https://panel.example may not do this; if they are to, add the origin to http.origins", "broker: a web page was refused: web pages of https://panel.example may not do this; if they are to, add the origin to broker.websocket.origins", "add it to http.hosts"} {
		if n := strings.Count(log, want); n != 1 {
			t.Errorf("%d times in the log: %s", n, want)
		}
	}
	before := h.since()
	yaml = strings.Replace(yaml, "{listen: HTTP}", "{listen: HTTP, origins: ['"+page+"'], hosts: [hooks.example]}", 1)
	o := h.reload(strings.Replace(yaml, "'}}", "', origins: [mqtt.example]}}", 1))
	if !o.OK || strings.Join(o.Changed, ", ") != "http.origins: changed, http.hosts: changed, broker.websocket: changed" {
		t.Fatalf("%+v", o)
	}
	if got := post("Origin", page); got != http.StatusAccepted {
		t.Errorf("a page that is allowed posts: %d", got)
	}
	if got := post("Origin", other); got != http.StatusForbidden {
		t.Errorf("a page that may connect posts: %d", got)
	}
	if got := post("Host", "hooks.example"); got != http.StatusAccepted {
		t.Errorf("a name that is allowed: %d", got)
	}
	for _, address := range []string{h.http, own} {
		for _, origin := range []string{page, other} {
			if _, got := connect(address, origin); got != http.StatusSwitchingProtocols {
				t.Errorf("%s connects to %s: %d", origin, address, got)
			}
		}
	}
	for name, at := range h.since() {
		if !at.Equal(before[name]) {
			t.Errorf("%s was started again", name)
		}
	}
}
