package bridge_test

import (
	"strings"
	"testing"
)

// TestABrokerThatIsOpenToAllIsWarnedOf: it may be meant, and surprises.
func TestABrokerThatIsOpenToAllIsWarnedOf(t *testing.T) {
	for text, want := range map[string]string{
		"broker: {listen: 0.0.0.0:1883, allow_anonymous: true}":                                                                                                      "broker.listen",
		"broker: {listen: ':1883', allow_anonymous: true}":                                                                                                           "broker.listen",
		"broker: {listen: '[::]:1883', allow_anonymous: true, users: [{name: a, password: secret}]}":                                                                 "broker.listen",
		"broker: {websocket: {listen: 0.0.0.0:9001}, allow_anonymous: true}":                                                                                         "broker.websocket.listen",
		"{http: {listen: 0.0.0.0:8127}, sources: [{name: a, type: webhook, auth: {token: long-secret}}], broker: {allow_anonymous: true}}":                           "http.listen",
		"{http: {listen: 0.0.0.0:8127}, sources: [{name: a, type: webhook, auth: {token: long-secret}}], broker: {allow_anonymous: true, websocket: {http: false}}}": "",
		"broker: {allow_anonymous: true}":                                                            "",
		"broker: {listen: 0.0.0.0:1883, users: [{name: a, password: secret}]}":                       "",
		"{mqtt: {url: 'mqtt://127.0.0.1:1'}, broker: {listen: 0.0.0.0:1883, allow_anonymous: true}}": "",
	} {
		got := strings.Join(load(t, text+"\n").Warnings(), "\n")
		if want == "" && got != "" || !strings.HasPrefix(got, want) || want != "" && !strings.Contains(got, "allow_anonymous") {
			t.Errorf("%s: %q", text, got)
		}
	}
}
