package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"event2mqtt/internal/broker/wire"
	"event2mqtt/test/mqttest"
)

const (
	publishers  = 4
	subscribers = 4
	window      = 100 // unanswered messages of a publisher
)

type brokerResult struct {
	rate float64
	cpu  time.Duration
	peak int64
}

func (b *bench) broker() error {
	for qos := range byte(2) {
		var ours, theirs brokerResult
		for round := range 2 {
			for _, which := range []struct {
				best  *brokerResult
				start func() (*process, error)
			}{
				{&ours, func() (*process, error) { return b.startBridge("log: {level: error}\n") }},
				{&theirs, b.startMosquitto},
			} {
				p, err := which.start()
				if err != nil {
					return err
				}
				r, err := measureBroker(p, qos)
				p.end()
				if err != nil {
					return err
				}
				if round == 0 || r.rate > which.best.rate {
					*which.best = r
				}
			}
		}
		goal := map[byte]string{0: "", 1: ">= 1.5 x theirs"}[qos]
		us := func(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/1e3) }
		b.add(fmt.Sprintf("broker, 4 publishers x 4 subscribers, QoS %d: deliveries/s", qos), fmt.Sprintf("%.0f", ours.rate), goal, fmt.Sprintf("mosquitto %.0f, ratio %.2f", theirs.rate, ours.rate/theirs.rate))
		b.add("  CPU per delivery, us", us(ours.cpu), "", fmt.Sprintf("mosquitto %s, ratio %.2f", us(theirs.cpu), float64(ours.cpu)/float64(theirs.cpu)))
		b.add("  peak RSS under load, MiB", mib(ours.peak), "<= 40", "mosquitto "+mib(theirs.peak))
	}
	return nil
}

// measureBroker has every publisher publish to a topic of its own for the time
// of the load, and every subscriber read them all.
func measureBroker(p *process, qos byte) (brokerResult, error) {
	var r brokerResult
	var received, published atomic.Int64
	var subs, pubs sync.WaitGroup
	var failed atomic.Value
	stop := make(chan struct{})
	for i := range subscribers {
		c, err := mqttest.Dial(p.mqtt, mqttest.Options{ID: fmt.Sprint("sub", i)})
		if err != nil {
			return r, err
		}
		defer c.Close()
		if _, err := c.Subscribe("bench/#", qos); err != nil {
			return r, err
		}
		subs.Go(func() { readAll(c, &received) })
	}
	start, cpu := time.Now(), p.cpu()
	for i := range publishers {
		c, err := mqttest.Dial(p.mqtt, mqttest.Options{ID: fmt.Sprint("pub", i)})
		if err != nil {
			return r, err
		}
		defer c.Close()
		pubs.Go(func() {
			if err := publish(c, fmt.Sprint("bench/", i), qos, stop, &published); err != nil {
				failed.Store(err)
			}
		})
	}
	time.Sleep(loadTime)
	close(stop)
	pubs.Wait()
	if err, _ := failed.Load().(error); err != nil {
		return r, err
	}
	want := published.Load() * subscribers
	lost := int64(0)
	for last, still := received.Load(), 0; received.Load() < want; time.Sleep(10 * time.Millisecond) {
		if now := received.Load(); now != last {
			last, still = now, 0
		} else if still++; still > 200 {
			lost = want - now
			break
		}
	}
	if lost > 0 && qos > 0 {
		return r, fmt.Errorf("lost %d of %d deliveries", lost, want)
	}
	took := time.Since(start)
	if lost > 0 {
		took -= 2 * time.Second // of waiting for what was dropped
	}
	r.rate = float64(received.Load()) / took.Seconds()
	r.cpu = (p.cpu() - cpu) / time.Duration(received.Load())
	r.peak = p.peak()
	return r, nil
}

// readAll counts messages and answers them, many at once where they come so.
func readAll(c *mqttest.Client, received *atomic.Int64) {
	var acks []byte
	var p wire.Publish
	for {
		header, body, err := c.Reader.Next()
		if err != nil {
			return
		}
		if wire.Type(header>>4) == wire.PUBLISH && wire.DecodePublish(&p, wire.V311, header, body, p.Topic) == nil {
			received.Add(1)
			if p.QoS == 1 {
				acks = wire.AppendAck(acks, wire.V311, wire.PUBACK, wire.Ack{PacketID: p.PacketID})
			}
		}
		if len(acks) > 0 && c.Reader.Buffered() == 0 {
			if _, err := c.Write(acks); err != nil {
				return
			}
			acks = acks[:0]
		}
	}
}

// publish keeps the window full until stop, then waits for the answers.
func publish(c *mqttest.Client, topic string, qos byte, stop chan struct{}, published *atomic.Int64) error {
	payload := make([]byte, payloadSize)
	var out []byte
	id, open := uint16(0), 0
	for {
		stopped := false
		select {
		case <-stop:
			stopped = true
		default:
		}
		out = out[:0]
		for !stopped && open < window {
			if id++; id == 0 {
				id = 1
			}
			out = wire.AppendPublish(out, wire.V311, &wire.Publish{Topic: topic, Payload: payload, QoS: qos, PacketID: id})
			published.Add(1)
			if open++; qos == 0 && open == window/4 {
				break
			}
		}
		if len(out) > 0 {
			if _, err := c.Write(out); err != nil {
				return err
			}
		}
		if qos == 0 {
			if open = 0; stopped {
				return nil
			}
			continue
		}
		if open == 0 {
			return nil
		}
		for first := true; open > 0 && (first || c.Reader.Buffered() > 0); first = false {
			header, _, err := c.Reader.Next()
			if err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			if wire.Type(header>>4) == wire.PUBACK {
				open--
			}
		}
	}
}
