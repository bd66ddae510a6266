package mqtt

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks"
)

// This file is the way of events to a service that draws curves of them
// (ThingSpeak). It takes a message at a time: what comes in between is merged, and
// the newest value of each field counts.

// plot is what a channel gets of events.
type plot struct {
	topic  string
	fields []plotField // in the order of their numbers
}

type plotField struct {
	name string // such as field1
	path string // in the payload
}

// maxPlotFields is how many fields a channel has.
const maxPlotFields = 8

// newPlot reads the options channel and fields. The error holds every KeyError.
func newPlot(channel string, fields map[string]string) (*plot, error) {
	var errs config.Errors
	p := &plot{topic: "channels/" + channel + "/publish"}
	if channel == "" {
		errs.Bad("channel", "is missing; write the number that the channel's page shows as Channel ID")
	} else if _, err := strconv.ParseUint(channel, 10, 64); err != nil {
		errs.Bad("channel", "%q is not the number of a channel; write the one that its page shows as Channel ID", channel)
	}
	if len(fields) == 0 {
		errs.Bad("fields", "is missing; write for example fields: {1: payload.progress}")
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		key := "fields." + name
		if n, err := strconv.Atoi(name); err != nil || n < 1 || n > maxPlotFields || strconv.Itoa(n) != name {
			errs.Bad(key, "a channel has the fields 1 to %d", maxPlotFields)
			continue
		}
		path, ok := strings.CutPrefix(fields[name], "payload.")
		if !ok {
			errs.Bad(key, "%q does not name a value of the payload; write for example payload.progress", fields[name])
		} else if err := event.CheckPath(path); err != nil {
			errs.Bad(key, "%w", err)
		}
		p.fields = append(p.fields, plotField{"field" + name, path})
	}
	return p, errs.Err()
}

// update is a message that grows until it is sent.
type update struct {
	values []string // of the fields; "" is none
	status string
	newest journal.Entry
}

func (p *plot) update() *update { return &update{values: make([]string, len(p.fields))} }

// add merges an event: what it has takes the place of what was there.
func (p *plot) add(u *update, e *journal.Entry) {
	for i, f := range p.fields {
		if text := plotValue(event.Find(e.Payload, f.path)); text != "" {
			u.values[i] = text
		}
	}
	u.status, u.newest = e.Name, *e
}

// payload is the message, form-encoded.
func (p *plot) payload(u *update) []byte {
	var out []byte
	for i, f := range p.fields {
		if u.values[i] != "" {
			out = append(append(append(out, f.name...), '='), url.QueryEscape(u.values[i])...)
			out = append(out, '&')
		}
	}
	return append(append(out, "status="...), url.QueryEscape(u.status)...)
}

// plotValue is a JSON value as a service for numbers takes it; "" is none.
func plotValue(raw []byte) string {
	var text string
	switch string(raw) {
	case "null":
		return ""
	case "true":
		return "1"
	case "false":
		return "0"
	}
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	return string(raw)
}

// single makes a message of one event alone.
func (p *plot) single(e *journal.Entry) []byte {
	u := p.update()
	p.add(u, e)
	return p.payload(u)
}

// publishPlot is publishEvents for a plot.
func (s *Sink) publishPlot(ctx context.Context, l link, in *journal.Cursor, turn *turns, window chan<- sent, slots *slots, f *flight) error {
	turn.letIn()
	buf := make([]journal.Entry, 0, 64)
	for {
		u := s.plot.update()
		entries, err := in.Next(ctx, buf)
		if err != nil {
			return err
		}
		for s.plot.addAll(u, entries); ; s.plot.addAll(u, entries) {
			if entries, err = in.Next(ended, buf); err != nil {
				break // there is no more for now
			}
		}
		if !errors.Is(err, context.Canceled) {
			return err
		}
		if err := s.mergeUntilDue(ctx, in, u, buf); err != nil {
			return err
		}
		for !slots.take() {
			if err := slots.wait(ctx, 1); err != nil {
				return err
			}
		}
		turn.eventOut()
		m, err := s.publishUpdate(ctx, l, u)
		if err != nil {
			turn.eventsDone(1)
			slots.release(1)
			return err
		}
		s.plotted.Store(time.Now().UnixNano())
		f.sentTo = m.seq
		window <- m
	}
}

func (p *plot) addAll(u *update, entries []journal.Entry) {
	for i := range entries {
		p.add(u, &entries[i])
	}
	clear(entries)
}

// mergeUntilDue waits until the next message may go out, and merges what comes
// until then. The turn is given back if it fails.
func (s *Sink) mergeUntilDue(ctx context.Context, in *journal.Cursor, u *update, buf []journal.Entry) error {
	if s.pace == nil {
		return nil
	}
	wait := s.pace.reserve(time.Now())
	if wait <= 0 {
		return nil
	}
	due, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		entries, err := in.Next(due, buf)
		switch {
		case err == nil:
			s.plot.addAll(u, entries)
		case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
			return nil
		default:
			s.pace.giveBack()
			return err
		}
	}
}

// publishUpdate hands one message over, as publishEvent does. What is sent counts
// as the newest event in it.
func (s *Sink) publishUpdate(ctx context.Context, l link, u *update) (sent, error) {
	e := u.newest
	m := message{topic: s.plot.topic, payload: s.plot.payload(u), entry: &e}
	t := l.publish(ctx, m)
	if d, known := t.(done); known && errors.Is(d.error, sinks.ErrNeverTaken) {
		return sent{e.Seq, messageKind{}, done{}, nil}, s.skip(&e, m.topic, t.Error().Error())
	}
	return sent{e.Seq, kindOf(&m), t, nil}, nil
}

// idle is how long nothing was published when the service may end a connection.
const idle = 10 * time.Minute

// endedIdle reports whether a connection ended as those to the service do after an
// hour without a message, which is no trouble.
func (s *Sink) endedIdle(err error) bool {
	quiet := s.opt.Idle
	if quiet == 0 {
		quiet = idle
	}
	return s.plot != nil && closed(err) && time.Since(time.Unix(0, s.plotted.Load())) >= quiet
}

// checkPlot tells of options that only a plot has, or needs.
func (o *Extra) checkPlot() error {
	if o.Preset == presetThingSpeak {
		_, err := newPlot(o.Channel, o.Fields)
		return err
	}
	var errs config.Errors
	const alone = "it is for preset: " + presetThingSpeak + " alone; elsewhere publish.payload says what a message looks like"
	if o.Channel != "" {
		errs.Bad("channel", alone)
	}
	if len(o.Fields) > 0 {
		errs.Bad("fields", alone)
	}
	if o.States && o.bare() {
		errs.Bad("states", "the service has no place for states; leave it out (preset %s)", o.Preset)
	}
	return errs.Err()
}
