package cluster

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
)

// run tries a cell, and returns its row of the table.
func (c cell) run(t *testing.T) (row string) {
	certs := newCertificates(t)
	b := c.destination.prepare(t, c.transport, certs)
	b.start()
	r := newRecord(c.destination.most)
	stop := c.watch(t, b, r)
	defer stop()
	if c.transport == "certificate" {
		b.refusesStrangers(t, certs)
	}
	s := newSender(t, c, b.url, certs)
	if says := c.destination.unable[c.protocol]; says != "" {
		return c.refused(t, s, r, says)
	}
	s.restart()
	post := make(chan struct{})
	var posting sync.WaitGroup
	posting.Go(func() { s.post(post) })
	kills := 0
	connection := 1
	for kills < 2*killsOfEach {
		until(t, fmt.Sprintf("events flow after %d kills", kills), func() bool { return r.flows(s.run, connection) })
		if kills%2 == 0 {
			s.kill()
			s.restart()
		} else {
			connection = r.connected() + 1
			b.kill()
			s.reload()
			b.start()
		}
		kills++
	}
	until(t, "events flow after the last kill", func() bool { return r.flows(s.run, connection) })
	close(post)
	posting.Wait()
	return c.judge(t, s, r, kills)
}

// judge waits until what must come has come, and says what did.
func (c cell) judge(t *testing.T, s *sender, r *record, kills int) string {
	lost := func(qos int) int { return r.missing(qos, s.accepted) }
	for deadline := time.Now().Add(testkit.Patience); lost(1)+lost(2) > 0 && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
	}
	row := fmt.Sprintf(rowHead, c.destination.name, c.protocol, c.transport, fmt.Sprint(kills), fmt.Sprint(len(s.accepted)))
	for qos := range qosNames {
		n, a := lost(qos), r.again(qos)
		row += fmt.Sprintf(rowQoS, fmt.Sprint(n), fmt.Sprint(a.resent), fmt.Sprint(a.repeated), fmt.Sprint(a.doubled))
		if qos > 0 && n > 0 {
			t.Errorf("%d of %d events with QoS %d did not come", n, len(s.accepted), qos)
		}
		if qos == 2 && a.doubled > 0 {
			t.Errorf("%d events with QoS 2 came twice, and nothing was killed in between", a.doubled)
		}
		if qos == 2 && a.repeated > 0 && c.destination.once {
			t.Errorf("the broker has repeated %d messages with QoS 2", a.repeated)
		}
	}
	if n, most := r.connected(), 1+kills/2; n > most {
		t.Errorf("the watcher connected %d times; %d were due", n, most)
	}
	for _, w := range r.wrong {
		t.Error(w)
	}
	return strings.TrimRight(row+" "+c.destination.note, " ") + "\n"
}

// refused tries a protocol that the broker does not speak: event2mqtt says so, and
// sends what it has accepted when another one is set.
func (c cell) refused(t *testing.T, s *sender, r *record, says string) string {
	s.restart()
	until(t, "an event is accepted", s.postOne)
	until(t, "event2mqtt says that the broker does not speak the protocol", func() bool { return strings.Contains(s.log.String(), says) })
	s.kill()
	s.protocol = "auto"
	s.restart()
	until(t, "the event comes with another protocol", func() bool { return r.missing(1, s.accepted)+r.missing(2, s.accepted) == 0 })
	return fmt.Sprintf(rowHead, c.destination.name, c.protocol, c.transport, "-", fmt.Sprint(len(s.accepted))) + fmt.Sprintf(" says %q, and sends with auto\n", says)
}

// watch has the broker watched. It returns when the watcher has subscribed, and
// what ends it.
func (c cell) watch(t *testing.T, b *broker, r *record) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	subscribed := make(chan struct{})
	var once sync.Once
	w := &watcher{b, r, map[uint16]string{}, func() { once.Do(func() { close(subscribed) }) }}
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	stop = func() {
		cancel()
		running.Wait()
	}
	select {
	case <-subscribed:
	case <-time.After(testkit.Patience):
		stop()
		t.Fatal("the watcher could not subscribe")
	}
	return stop
}
