package bridge

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/sources/octoprint/leftover"
	"event2mqtt/internal/topic"
	"event2mqtt/internal/web/problem"
)

// This file is how what the plugin OctoPrint-HomeAssistant has left is cleared:
// by a program of its own at a broker in the network, and by the one that runs
// at the bundled one.

// ErrBundled says that a configuration has no broker but the bundled one, which
// is there only while the program runs.
var ErrBundled = errors.New("the bundled broker is there only while event2mqtt runs: start it, and try again")

// ClearLeftover clears at the broker that is configured what the plugin
// OctoPrint-HomeAssistant has left. The error is ErrBundled, or that of the
// connection; what comes in between is in the report.
func (p *Plan) ClearLeftover(ctx context.Context, r leftover.Request) (leftover.Report, error) {
	if len(p.MQTT.URL) == 0 {
		return leftover.Report{}, ErrBundled
	}
	if err := p.completeLeftover(&r); err != nil {
		return leftover.Report{}, err
	}
	v, err := mqtt.Visit(ctx, p.MQTT, p.Publish)
	if err != nil {
		return leftover.Report{}, err
	}
	defer v.Close()
	report := leftover.Clear(ctx, outside{v}, r)
	report.Broker = v.Broker()
	return report, nil
}

// completeLeftover adds where Home Assistant listens, and checks a request.
func (p *Plan) completeLeftover(r *leftover.Request) error {
	for _, prefix := range []string{"homeassistant", p.HomeAssistant.Prefix} { // the plugin has one entity always below the first
		if !slices.Contains(r.Prefixes, prefix) {
			r.Prefixes = append(r.Prefixes, prefix)
		}
	}
	return r.Check()
}

// outside is a broker in the network.
type outside struct{ *mqtt.Visitor }

func (o outside) Read(ctx context.Context, filters []string, use func(leftover.Message)) error {
	return o.Visitor.Read(ctx, filters, func(m sinks.Incoming, tooLong int) {
		use(leftover.Message{Topic: m.Topic, Payload: m.Payload, TooLong: tooLong})
	})
}

// within is the bundled broker.
type within struct {
	sinks.Broker
	marker  string // a topic of the program's own
	cancels []func()
}

// Read subscribes to all that there is: only messages of one subscription are in
// order, so that one that comes back tells that what was retained has come.
func (b *within) Read(ctx context.Context, filters []string, use func(leftover.Message)) error {
	text := strings.ToLower(rand.Text())
	back := make(chan struct{}, 1)
	cancel, err := b.Subscribe("#", func(m sinks.Incoming) {
		if m.Topic == b.marker && string(m.Payload) == text {
			select {
			case back <- struct{}{}:
			default:
			}
			return
		}
		if slices.ContainsFunc(filters, func(filter string) bool { return topic.Overlap(filter, m.Topic) }) {
			use(leftover.Message{Topic: m.Topic, Payload: m.Payload})
		}
	})
	if err != nil {
		return err
	}
	b.cancels = append(b.cancels, cancel)
	again := time.NewTicker(time.Second) // one may be dropped where much comes
	defer again.Stop()
	for {
		if _, err := b.Publish(ctx, sinks.Outgoing{Topic: b.marker, Payload: []byte(text)}); err != nil {
			return err
		}
		select {
		case <-back:
			return nil
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Clear implements leftover.Broker.
func (b *within) Clear(ctx context.Context, at string) error {
	receipt, err := b.Publish(ctx, sinks.Outgoing{Topic: at, QoS: 1, Retain: true})
	if err != nil || receipt == nil {
		return err
	}
	return receipt.Wait()
}

func (b *within) close() {
	for _, cancel := range b.cancels {
		cancel()
	}
}

// clearLeftover clears what the plugin has left at the broker that is in use.
func (b *Bridge) clearLeftover(ctx context.Context, r leftover.Request) (leftover.Report, error) {
	b.mu.RLock()
	plan, broker := b.now.plan, b.now.broker
	b.mu.RUnlock()
	switch {
	case plan == nil:
		return leftover.Report{}, errors.New("event2mqtt is starting; try again")
	case broker == nil:
		return plan.ClearLeftover(ctx, r)
	}
	if err := plan.completeLeftover(&r); err != nil {
		return leftover.Report{}, err
	}
	at := &within{Broker: broker, marker: plan.Publish.BaseTopic + "/" + event.OwnSource + "/check"}
	defer at.close()
	return leftover.Clear(ctx, at, r), nil
}

// ClearLeftover implements api.Program.
func (p program) ClearLeftover(ctx context.Context, text []byte) (any, bool, error) {
	var request leftover.Request
	if err := json.Unmarshal(text, &request); err != nil {
		return nil, false, problem.New(http.StatusBadRequest, fmt.Sprintf("send JSON with what to look for: %v", err))
	}
	report, err := p.clearLeftover(ctx, request)
	if err != nil {
		report.Problem = err.Error()
	}
	if !request.LookOnly {
		p.tellCleared(&report)
	}
	return report, err == nil, nil
}

// tellCleared logs what was cleared.
func (b *Bridge) tellCleared(report *leftover.Report) {
	topics := 0
	for _, d := range report.Devices {
		if d.Cleared {
			topics += len(d.Entities) + len(d.States)
		}
	}
	if topics > 0 {
		b.log.Info().Int("topics", topics).Msg("what OctoPrint-HomeAssistant had left at the broker was cleared, as asked for")
	}
}
