package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

const eventTopic = "event2mqtt/event/"

// message is what a watcher got.
type message struct {
	topic   string
	payload []byte
}

// watcher collects all messages over a connection that lasts. An event
// that is sent again after a kill has the id that it had, and counts once.
type watcher struct {
	mu       sync.Mutex
	messages []message // since forget
	ids      map[string]bool
	newest   map[string]string // payload by topic, before forget
}

func watch(t *testing.T, broker string) *watcher {
	t.Helper()
	c, _, _, err := mqttest.Connect(broker, mqttest.Options{ID: "watcher"})
	testkit.OK(t, err)
	_, err = c.Subscribe("event2mqtt/#", 1)
	testkit.OK(t, err)
	w := &watcher{ids: map[string]bool{}, newest: map[string]string{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			m, err := c.Next()
			if err != nil {
				return
			}
			w.take(message{m.Topic, m.Payload})
		}
	})
	t.Cleanup(func() { _ = c.Close(); wg.Wait() })
	return w
}

func (w *watcher) take(m message) {
	var id struct {
		ID string `json:"_id"`
	}
	if strings.HasPrefix(m.topic, eventTopic) {
		_ = json.Unmarshal(m.payload, &id)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if id.ID != "" && w.ids[id.ID] {
		return
	}
	w.ids[id.ID] = true
	w.messages = append(w.messages, m)
}

// forget begins anew.
func (w *watcher) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.messages {
		w.newest[m.topic] = string(m.payload)
	}
	w.messages = nil
}

// before is the payload that a topic had when forget was called.
func (w *watcher) before(topic string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.newest[topic]
}

func (w *watcher) all() []message {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.messages)
}

// events are the messages that tell events.
func (w *watcher) events() []message {
	return slices.DeleteFunc(w.all(), func(m message) bool { return !strings.HasPrefix(m.topic, eventTopic) })
}

func (w *watcher) count(name string) (n int) {
	for _, m := range w.events() {
		if m.topic == eventTopic+name {
			n++
		}
	}
	return n
}

func (w *watcher) await(t *testing.T, name string) {
	t.Helper()
	w.awaitCount(t, name, 1)
}

func (w *watcher) awaitCount(t *testing.T, name string, n int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%s has come %d times", name, n), func() bool { return w.count(name) >= n })
}
