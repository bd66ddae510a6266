package broker

import (
	"fmt"
	"math"
	"runtime"
	"runtime/metrics"
	"time"
)

// sysPrefix begins the topics that tell how the broker does, named as
// Mosquitto names them.
const sysPrefix = "$SYS/broker/"

// publishSys keeps the $SYS topics up to date: retained, each published when
// it changed. An interval of 0 is never.
func (b *Broker) publishSys(every time.Duration) {
	shown := map[string]string{}
	var loads loads
	before, at := b.Stats(), time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := timer.C
		if every == 0 {
			next = nil
		}
		select {
		case <-b.stop:
			return
		case every = <-b.sysInterval:
			timer.Reset(every)
			continue
		case <-next:
			timer.Reset(every)
		}
		now := b.Stats()
		loads.add(&before, &now, time.Since(at))
		before, at = now, time.Now()
		for topic, value := range b.sysTopics(&now, &loads) {
			if shown[topic] == value {
				continue
			}
			shown[topic] = value
			m := &Message{Topic: sysPrefix + topic, Payload: []byte(value), Retain: true}
			_, _ = b.deliver(b.stop, nil, m, b.subs.match(m.Topic), 0)
		}
	}
}

func (b *Broker) sysTopics(s *Stats, l *loads) map[string]string {
	n := func(v any) string { return fmt.Sprint(v) }
	b.counters.maximum.Store(max(b.counters.maximum.Load(), int64(s.Clients)))
	absent := s.Sessions - s.Clients
	heap := heapBytes("/memory/classes/heap/objects:bytes")
	b.counters.heap.Store(max(b.counters.heap.Load(), heap))
	topics := map[string]string{
		"version":                         "event2mqtt version " + b.version,
		"uptime":                          fmt.Sprintf("%d seconds", int(time.Since(b.began).Seconds())),
		"clients/total":                   n(s.Sessions),
		"clients/connected":               n(s.Clients),
		"clients/active":                  n(s.Clients),
		"clients/disconnected":            n(max(0, absent)),
		"clients/inactive":                n(max(0, absent)),
		"clients/maximum":                 n(b.counters.maximum.Load()),
		"clients/expired":                 n(s.ExpiredSessions),
		"messages/received":               n(s.PacketsIn),
		"messages/sent":                   n(s.PacketsOut),
		"publish/messages/received":       n(s.Received),
		"publish/messages/sent":           n(s.Sent),
		"publish/messages/dropped":        n(s.Dropped + s.TooLarge),
		"bytes/received":                  n(s.BytesIn),
		"bytes/sent":                      n(s.BytesOut),
		"store/messages/count":            n(s.Retained),
		"store/messages/bytes":            n(int64(s.RetainedBytes) + s.QueuedBytes),
		"messages/stored":                 n(s.Retained),
		"retained messages/count":         n(s.Retained),
		"subscriptions/count":             n(s.Subscriptions),
		"heap/current":                    n(heap),
		"heap/maximum":                    n(b.counters.heap.Load()), // of those that were shown
		"publish/bytes/received":          n(s.PublishedIn),
		"publish/bytes/sent":              n(s.PublishedOut),
		"shared_subscriptions/count":      n(s.Shared),
		"event2mqtt/heap/live":            n(heapBytes("/gc/heap/live:bytes")), // when the collector last ran
		"event2mqtt/refused/connections":  n(s.RefusedConnections),
		"event2mqtt/refused/logins":       n(s.RefusedLogins),
		"event2mqtt/refused/denied":       n(s.Denied),
		"event2mqtt/refused/retained":     n(s.RetainedRefused),
		"event2mqtt/clients/cut off":      n(s.CutOff),
		"event2mqtt/messages/too large":   n(s.TooLarge),
		"event2mqtt/messages/queue bytes": n(s.QueuedBytes),
		"event2mqtt/goroutines":           n(runtime.NumGoroutine()),
	}
	l.each(func(name string, perMinute float64) { topics["load/"+name] = fmt.Sprintf("%.2f", perMinute) })
	return topics
}

func heapBytes(metric string) uint64 {
	sample := []metrics.Sample{{Name: metric}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}

// loads are moving averages per minute, over 1, 5 and 15 minutes.
type loads [len(loadNames)][len(loadMinutes)]float64

var loadNames = [...]string{
	"connections", "sockets", "messages/received", "messages/sent", "publish/received", "publish/sent", "publish/dropped", "bytes/received", "bytes/sent",
}

var loadMinutes = [...]int{1, 5, 15}

func (l *loads) add(before, now *Stats, took time.Duration) {
	if took <= 0 {
		return
	}
	for i, delta := range [len(loadNames)]uint64{
		now.Connections - before.Connections, now.Connections + now.RefusedConnections - before.Connections - before.RefusedConnections,
		now.PacketsIn - before.PacketsIn, now.PacketsOut - before.PacketsOut,
		now.Received - before.Received, now.Sent - before.Sent, now.Dropped - before.Dropped,
		now.BytesIn - before.BytesIn, now.BytesOut - before.BytesOut,
	} {
		rate := float64(delta) / took.Minutes()
		for k, minutes := range loadMinutes {
			keep := math.Exp(-took.Minutes() / float64(minutes))
			l[i][k] = l[i][k]*keep + rate*(1-keep)
		}
	}
}

func (l *loads) each(use func(name string, perMinute float64)) {
	for i, name := range loadNames {
		for k, minutes := range loadMinutes {
			use(fmt.Sprintf("%s/%dmin", name, minutes), l[i][k])
		}
	}
}
