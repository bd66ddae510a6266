package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"sync/atomic"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sinks"
)

// This file is what the program publishes of itself, beside bridge/config: how it
// is, what it does, and what it logs.

// Keys of the program's own states, and the last level of the topic that the log
// is published to.
const (
	keyConfig = "config"
	keyState  = "state"
	keyInfo   = "info"
	logLevel  = "logging"
)

// tellerPace is how often the program tells of itself. Tests have less patience.
type tellerPace struct {
	look    time.Duration // how soon a problem is told,
	waiting time.Duration // and how soon that more or fewer events wait
	info    time.Duration
}

var usualTelling = tellerPace{look: 2 * time.Second, waiting: 10 * time.Second, info: time.Minute}

// ownState is how the program is, all keys always: the program's device is read
// from it.
type ownState struct {
	State string `json:"state"` // stateOK or stateProblem
	// Problem is the cause; nil if there is none. What /readyz says is not ready
	// is a problem; others are, too (see trouble).
	Problem *string   `json:"problem"`
	Since   time.Time `json:"since"`
	Version *string   `json:"version"` // nil of a development build
	Waiting *uint64   `json:"waiting"` // events that the main sink has not delivered
}

// Values of ownState.
const (
	stateOK      = "ok"
	stateProblem = "problem"
)

// ownInfo says what the program is and does.
type ownInfo struct {
	Version   string         `json:"version"`
	Started   time.Time      `json:"started"`
	Uptime    int64          `json:"uptime"` // seconds
	Sources   []ownPart      `json:"sources"`
	Sinks     []ownPart      `json:"sinks"`
	Events    ownCounts      `json:"events"`
	Refused   int            `json:"refused"` // kept in refused/
	Broker    map[string]int `json:"broker,omitempty"`
	Published time.Time      `json:"published"`
}

type ownPart struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	State string `json:"state"`
	// Events are those of a source that were accepted, or that a sink is done
	// with, since the program began.
	Events uint64 `json:"events"`
}

type ownCounts struct {
	Accepted  uint64 `json:"accepted"`
	Delivered uint64 `json:"delivered"` // by the main sink
	Waiting   uint64 `json:"waiting"`
}

// teller keeps the program's own states up to date.
type teller struct {
	*Bridge
	told    ownState
	stateAt time.Time // when it was told
	infoAt  time.Time
}

// run tells until ctx ends.
func (t *teller) run(ctx context.Context) {
	tick := time.NewTicker(t.telling.look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.tell()
		}
	}
}

// tell tells what has changed, and each minute what the program has done.
func (t *teller) tell() {
	now, at := t.running(), time.Now()
	s := ownState{State: stateOK, Since: t.told.Since, Waiting: new(uint64)}
	if now.plan.Version != "" {
		s.Version = &now.plan.Version
	}
	*s.Waiting = now.parts[0].cursor.Lag()
	if why := t.trouble(now); why != "" {
		s.State, s.Problem = stateProblem, &why
	}
	news := t.told.State == "" || value(s.Problem) != value(t.told.Problem)
	if news {
		s.Since = at
	}
	if news || value(s.Waiting) != value(t.told.Waiting) && at.Sub(t.stateAt) >= t.telling.waiting {
		t.told, t.stateAt = s, at
		t.report(keyState, s)
	}
	if at.Sub(t.infoAt) >= t.telling.info-t.telling.look/2 {
		t.infoAt = at
		t.report(keyInfo, t.info(now))
	}
}

// value is what a pointer leads to; nil leads to the zero value.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// trouble says what is wrong, "" if nothing is: why events are not all accepted,
// or what else somebody should look at. A source that waits for its printer is as
// it should be, and so is the main sink when this can be read.
func (b *Bridge) trouble(now *running) string {
	if why := b.ready(now); why != "" {
		return why
	}
	if b.announcer.isCloned() {
		return "another event2mqtt has the id of this installation; its log says what to do"
	}
	for _, c := range now.parts {
		r := c.health.Report()
		if _, isSink := c.part.(sinks.Sink); isSink && c.name != mainSink && r.Level == health.Waiting && r.Error != "" {
			return c.title + ": " + r.Detail
		}
	}
	b.mu.RLock()
	last := b.last
	b.mu.RUnlock()
	if !last.OK && len(last.Problems) > 0 {
		return "the new configuration is not used: " + last.Problems[0]
	}
	return ""
}

// report reports one of the program's own states.
func (b *Bridge) report(key string, v any) {
	text, err := json.Marshal(v)
	if err == nil {
		err = b.states.Report(stateSource, event.State{Key: key, Payload: text})
	}
	if err != nil { // never one too many
		b.log.Debug().Err(err).Str("state", key).Msg("a state of the program itself is not published")
	}
}

func (b *Bridge) info(now *running) ownInfo {
	in := ownInfo{
		Version: now.plan.Version, Started: b.began, Uptime: int64(time.Since(b.began) / time.Second), Published: time.Now(),
		Sources: []ownPart{}, Sinks: []ownPart{}, Refused: len(b.refused.IDs()),
	}
	p := program{b}
	for _, part := range p.apiParts(now, time.Now()) {
		one := ownPart{Name: part.Name, Type: part.Type, State: part.State, Events: part.Delivered}
		switch part.Kind {
		case "source":
			one.Events = b.counts.intake(part.Name).accepted.Load()
			in.Events.Accepted += one.Events
			in.Sources = append(in.Sources, one)
		case "sink":
			if one.Name == mainSink {
				one.State = health.Up.String() // when this can be read, which may be said before it has begun
			}
			in.Sinks = append(in.Sinks, one)
		}
	}
	in.Events.Accepted += b.counts.intake(apiSource).accepted.Load()
	main := now.parts[0].cursor.Stats()
	in.Events.Delivered, in.Events.Waiting = main.Delivered, main.Waiting
	if now.broker != nil {
		s := now.broker.Stats()
		in.Broker = map[string]int{"clients": s.Clients, "sessions": s.Sessions, "subscriptions": s.Subscriptions, "retained": s.Retained}
	}
	return in
}

// Bounds of what is published of the log.
const (
	logBurst   = 10
	logPause   = time.Second // for one line more
	maxLogLine = 4 << 10     // bytes
)

// logLines are lines of the log on their way to the broker.
type logLines struct {
	queue   chan []byte // cap logBurst
	leftOut atomic.Uint64
}

// tapLog has lines of a level, and of more serious ones, published from now on.
func (b *Bridge) tapLog(level string) {
	if b.opt.TapLog == nil {
		return
	}
	if level == "off" {
		b.opt.TapLog(nil)
		return
	}
	levels := [][]byte{[]byte(`"level":"error"`), []byte(`"level":"fatal"`), []byte(`"level":"panic"`)}
	if level == "warn" {
		levels = append(levels, []byte(`"level":"warn"`))
	}
	b.opt.TapLog(func(line []byte) {
		head := line[:min(len(line), 64)] // zerolog writes the level first
		if slices.ContainsFunc(levels, func(l []byte) bool { return bytes.Contains(head, l) }) {
			b.logLines.put(line)
		}
	})
}

// put queues a line, if there is room. It does not wait.
func (l *logLines) put(line []byte) {
	line = bytes.TrimSpace(line)
	if len(line) > maxLogLine {
		line, _ = event.Cut(line, maxLogLine)
	}
	select {
	case l.queue <- bytes.Clone(line):
	default:
		l.leftOut.Add(1)
	}
}

// publishLog publishes lines of the log until ctx ends: ten at once, and one a
// second. They are not stored, and what cannot be published is dropped.
func (b *Bridge) publishLog(ctx context.Context) {
	budget, filled := logBurst, time.Now()
	for {
		var line []byte
		select {
		case <-ctx.Done():
			return
		case line = <-b.logLines.queue:
		}
		if more := int(time.Since(filled) / logPause); more > 0 {
			budget, filled = min(budget+more, logBurst), time.Now()
		}
		if budget == 0 {
			b.logLines.leftOut.Add(1)
			continue
		}
		budget--
		if n := b.logLines.leftOut.Swap(0); n > 0 {
			line = event.Set(line, "lines_left_out", string(mustMarshal(n)))
		}
		now := b.running()
		if talker, ok := now.parts[0].part.(sinks.Talker); ok {
			limited, cancel := context.WithTimeout(ctx, logPause)
			_ = talker.Say(limited, now.plan.Publish.BaseTopic+"/"+stateSource+"/"+logLevel, line) // its failure must not make another line
			cancel()
		}
	}
}

func mustMarshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // of numbers alone
	}
	return text
}
