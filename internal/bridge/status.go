package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"event2mqtt/internal/commands"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/homeassistant/schema"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sources"
)

// This file is the program's own device: its state, and its command.

// Keys of the program's own states.
const (
	keyConfig = "config"
	keyStatus = "status"
)

// status is the program's own state.
type status struct {
	Version string `json:"version"`
	Waiting uint64 `json:"waiting"` // events that the main sink has not delivered
	Problem bool   `json:"problem"`
	Reason  string `json:"reason"`
}

// tellStatus keeps the program's own state up to date until ctx ends.
func (a *announcer) tellStatus(ctx context.Context) {
	tick := time.NewTicker(a.pace.status)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.b.reportStatus()
		}
	}
}

// reportStatus reports the program's own state, if devices are announced. One
// that has not changed is no news.
func (b *Bridge) reportStatus() {
	b.mu.RLock()
	now, last := b.now, b.last
	b.mu.RUnlock()
	if !now.plan.HomeAssistant.Discovery {
		b.states.Remove(stateSource, keyStatus)
		return
	}
	s := status{Version: now.plan.Version, Reason: b.trouble()}
	if s.Version == "" {
		s.Version = "unknown"
	}
	if s.Reason == "" && !last.OK && len(last.Problems) > 0 {
		s.Reason = "the new configuration is not used: " + last.Problems[0]
	}
	if sink := now.part("sink " + mainSink); sink != nil {
		s.Waiting = sink.lag()
	}
	if r := []rune(s.Reason); len(r) > schema.MaxState {
		s.Reason = string(r[:schema.MaxState])
	}
	s.Problem = s.Reason != ""
	if text, err := json.Marshal(s); err == nil {
		_ = b.states.Report(stateSource, event.State{Key: keyStatus, Payload: text}) // never one too many
	}
}

// trouble says what is wrong, "" if nothing is. A source that waits for its
// printer is as it should be, and so is the main sink when this can be read.
func (b *Bridge) trouble() string {
	if b.announcer.isCloned() {
		return "another event2mqtt has the id of this installation; its log says what to do"
	}
	if err := b.journal.Failure(); err != nil {
		return fmt.Sprintf("journal: cannot store events: %v", err)
	}
	for _, c := range b.parts() {
		r := c.health.Report()
		_, isSink := c.part.(sinks.Sink)
		if r.Level == health.Failed || isSink && c.name != mainSink && r.Level == health.Waiting && r.Error != "" {
			return c.title + ": " + r.Detail
		}
	}
	return ""
}

func (a *announcer) isCloned() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.other.IsZero()
}

// commandReload is the command of the program itself.
const commandReload = "reload"

// selfCommander takes the program's own commands.
type selfCommander struct{ b *Bridge }

var _ sources.Commander = selfCommander{}

// ownCommands are the program's own, for whoever takes commands.
func ownCommands(b *Bridge) commands.Source {
	return commands.Source{Name: event.OwnSource, To: selfCommander{b}, Allowed: []string{commandReload}}
}

// Do implements sources.Commander.
func (s selfCommander) Do(ctx context.Context, _ event.Command) ([]byte, error) {
	o, err := s.b.Reload(ctx)
	if err != nil {
		return nil, err
	}
	if !o.OK {
		return nil, errors.New("the new configuration is not used: " + strings.Join(o.Problems, "; "))
	}
	return json.Marshal(o)
}
