package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// delivery is how an event came: between which kills event2mqtt had sent it, and
// over which connection of the watcher's. Both are alike for two deliveries only if
// event2mqtt or the broker has doubled it, and nothing was killed in between.
type delivery struct{ run, connection string }

// record is what a watcher has received. Events are known by their name, which
// tells their QoS, and their number.
type record struct {
	most        int // the highest QoS that is used
	mu          sync.Mutex
	came        [3]map[int][]delivery
	fresh       map[delivery]*[3]int // deliveries
	connections int                  // of the watcher's
	wrong       []string             // what must not be
}

func newRecord(most int) *record {
	r := &record{most: most, fresh: map[delivery]*[3]int{}}
	for q := range r.came {
		r.came[q] = map[int][]delivery{}
	}
	return r
}

// qosNames are the events' names by their QoS.
var qosNames = [3]string{"Zero", "One", "Two"}

// take notes a message: its topic is matrix/RUN/NAME.
func (r *record) take(p *wire.Publish, connection int) {
	var e struct{ Number int }
	parts := strings.Split(p.Topic, "/")
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := json.Unmarshal(p.Payload, &e); err != nil || len(parts) != 3 || p.QoS > 2 || (parts[2] != qosNames[p.QoS] && !(parts[2] == qosNames[2] && int(p.QoS) == r.most)) || p.Retain {
		r.wrong = append(r.wrong, fmt.Sprintf("%s came with QoS %d, retained: %t: %.200s", p.Topic, p.QoS, p.Retain, p.Payload))
		return
	}
	qos := slices.Index(qosNames[:], parts[2])
	d := delivery{parts[1], fmt.Sprint(connection)}
	r.came[qos][e.Number] = append(r.came[qos][e.Number], d)
	if r.fresh[d] == nil {
		r.fresh[d] = new([3]int)
	}
	r.fresh[d][qos]++
}

// flows reports whether events of each QoS that were sent after a kill have come over the watcher's newest connection, which is not older than that.
func (r *record) flows(run, connection int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.fresh[delivery{fmt.Sprint(run), fmt.Sprint(r.connections)}]
	return r.connections >= connection && n != nil && min(n[0], n[1], n[2]) >= betweenKills
}

func (r *record) connected() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connections
}

// missing is how many of the accepted events have not come.
func (r *record) missing(qos int, accepted []int) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, number := range accepted {
		if len(r.came[qos][number]) == 0 {
			n++
		}
	}
	return n
}

// again is how often events came again, by who sent them again.
type again struct {
	resent   int // event2mqtt, after a kill
	repeated int // the broker, to the watcher that has connected anew
	doubled  int // anyone, with nothing killed in between
}

func (r *record) again(qos int) (a again) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, all := range r.came[qos] {
		before, runs := map[delivery]bool{}, map[string]bool{}
		for i, d := range all {
			switch {
			case i == 0:
			case before[d]:
				a.doubled++
			case runs[d.run]:
				a.repeated++
			default:
				a.resent++
			}
			before[d], runs[d.run] = true, true
		}
	}
	return a
}

// watcher is a client with a session that the broker keeps.
type watcher struct {
	broker *broker
	record *record
	// open are the exchanges with QoS 2 that the broker has begun and not
	// released, with the topic and payload of each. A broker that was killed may
	// use an id anew that it has forgotten, so the id alone does not tell.
	open       map[uint16]string
	subscribed func()
}

// run watches until ctx ends.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		w.once(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// once watches as long as a connection lasts. It reads on if an answer cannot be
// written: what a killed broker has sent is still there.
func (w *watcher) once(ctx context.Context) {
	c, present, code, err := mqttest.Connect(w.broker.watch, mqttest.Options{ID: "watcher", Keep: true, Dial: w.broker.dial, User: w.broker.login.User, Password: w.broker.login.Password})
	if err != nil {
		return
	}
	defer c.Close()
	if code != 0 {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	w.record.mu.Lock()
	w.record.connections++
	connection := w.record.connections
	w.record.mu.Unlock()
	if !present {
		clear(w.open)
		if _, err := c.Write(mqttest.AppendSubscribe(nil, c.Version, 1, "matrix/#", 2, nil)); err != nil {
			return
		}
	}
	for {
		header, body, err := c.Reader.Next()
		if err != nil {
			return
		}
		switch wire.Type(header >> 4) {
		case wire.SUBACK:
			if body[len(body)-1] == 2 {
				w.subscribed()
			}
		case wire.PUBLISH:
			var p wire.Publish
			if err := wire.DecodePublish(&p, c.Version, header, append([]byte(nil), body...), ""); err != nil {
				return
			}
			w.message(c, &p, connection)
		case wire.PUBREL:
			id := uint16(body[0])<<8 | uint16(body[1])
			delete(w.open, id)
			_ = c.Ack(wire.PUBCOMP, id)
		}
	}
}

func (w *watcher) message(c *mqttest.Client, p *wire.Publish, connection int) {
	switch p.QoS {
	case 2:
		if what := p.Topic + " " + string(p.Payload); w.open[p.PacketID] != what {
			w.open[p.PacketID] = what
			w.record.take(p, connection)
		}
		_ = c.Ack(wire.PUBREC, p.PacketID)
	case 1:
		w.record.take(p, connection)
		_ = c.Ack(wire.PUBACK, p.PacketID)
	default:
		w.record.take(p, connection)
	}
}
