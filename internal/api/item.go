package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/trace"
)

// This file is events as the API shows them.

// Fate is what became of an event.
type Fate struct {
	State string   `json:"state"` // waiting, delivered, held, dropped or refused
	MS    *float64 `json:"ms,omitempty"`
	Why   string   `json:"why,omitempty"`
	Rule  *Rule    `json:"rule,omitempty"`
}

// The states of a Fate.
const (
	waiting   = "waiting"
	delivered = "delivered"
	held      = "held"
	dropped   = "dropped"
	refusedBy = "refused"
)

var fateStates = []string{waiting, delivered, held, dropped, refusedBy}

// Route is how an event is published.
type Route struct {
	Topic  string
	QoS    byte
	Retain bool
}

// maxShown bounds the payload of an event in lists and streams, in bytes.
const maxShown = trace.MaxPayload

// shown is an event as it is shown.
type shown struct {
	id     string
	seq    uint64 // 0 is not stored
	event  *event.Event
	route  Route
	size   int // of the payload as it was
	cameIn []byte
	whole  bool // the payload is not cut
	fate   Fate
}

// append appends the event as JSON on one line.
func (s *shown) append(out []byte) []byte {
	out = slices.Grow(out, 2*len(s.id)+len(s.event.Source)+len(s.event.Name)+len(s.route.Topic)+min(len(s.event.Payload), 2*maxShown)+len(s.cameIn)+192)
	out = append(out, `{"type":"event","id":`...)
	out = event.AppendString(out, s.id)
	out = append(out, `,"seq":`...)
	if s.seq == 0 {
		out = append(out, "null"...)
	} else {
		out = strconv.AppendUint(out, s.seq, 10)
	}
	out = append(out, `,"time":`...)
	out = appendTime(out, s.event.Time)
	out = append(out, `,"source":`...)
	out = event.AppendString(out, s.event.Source)
	out = append(out, `,"event":`...)
	out = event.AppendString(out, s.event.Name)
	out = append(out, `,"topic":`...)
	out = event.AppendString(out, s.route.Topic)
	out = append(out, `,"qos":`...)
	out = strconv.AppendUint(out, uint64(s.route.QoS), 10)
	out = append(out, `,"retain":`...)
	out = strconv.AppendBool(out, s.route.Retain)
	if s.event.Route.Raw {
		out = append(out, `,"raw":true`...)
	}
	out = append(out, `,"size":`...)
	out = strconv.AppendInt(out, int64(s.size), 10)
	payload, cut := s.event.Payload, false
	if !s.whole {
		payload, cut = event.Cut(payload, maxShown)
	}
	out = append(out, `,"payload":`...)
	out = appendLine(out, payload)
	if cut || len(payload) < s.size {
		out = append(out, `,"truncated":true`...)
	}
	if s.cameIn != nil {
		out = append(out, `,"came_in":`...)
		out = appendLine(out, s.cameIn)
	}
	out = append(out, `,"fate":`...)
	out = s.fate.append(out)
	return append(out, '}')
}

// append appends the fate as JSON.
func (f *Fate) append(out []byte) []byte {
	if f.Why == "" && f.Rule == nil { // nearly all
		out = append(append(append(out, `{"state":"`...), f.State...), '"')
		if f.MS != nil {
			out = strconv.AppendFloat(append(out, `,"ms":`...), *f.MS, 'f', -1, 64)
		}
		return append(out, '}')
	}
	text, _ := json.Marshal(f) // it cannot fail
	return append(out, text...)
}

// appendFate appends a change of what became of an event.
func appendFate(out []byte, id string, seq uint64, f *Fate) []byte {
	out = slices.Grow(out, len(id)+len(f.Why)+96)
	out = append(out, `{"type":"fate","id":`...)
	out = event.AppendString(out, id)
	if seq > 0 {
		out = strconv.AppendUint(append(out, `,"seq":`...), seq, 10)
	}
	out = f.append(append(out, `,"fate":`...))
	return append(out, '}')
}

// appendLine appends JSON without line breaks, which it has between values only.
func appendLine(out, text []byte) []byte {
	at := len(out)
	out = append(out, text...)
	if bytes.ContainsAny(text, "\r\n") {
		for i := at; i < len(out); i++ {
			if out[i] == '\n' || out[i] == '\r' {
				out[i] = ' '
			}
		}
	}
	return out
}

// fates tell what has become of stored events, as far as the journal's places
// and the folder of refused events know.
type fates struct {
	a       *API
	acked   uint64
	refused map[string]struct{}
	read    int // reasons that were read
}

// maxReasons bounds the files that one answer reads for why events were refused.
const maxReasons = 100

func (a *API) fates() fates {
	return fates{a: a, acked: a.o.Program.Acked(), refused: a.o.Program.RefusedIDs()}
}

func (f *fates) of(seq uint64, id string) Fate {
	if _, ok := f.refused[id]; ok {
		why := "kept in refused/ of the state folder"
		if f.read++; f.read <= maxReasons {
			why = f.a.o.Program.Refusal(id)
		}
		if why != "" {
			return Fate{State: refusedBy, Why: why}
		}
	}
	if seq <= f.acked {
		return Fate{State: delivered}
	}
	return Fate{State: waiting}
}

// append appends a stored event.
func (f *fates) append(out []byte, e *journal.Entry) []byte {
	s := f.shown(e)
	return s.append(out)
}

func (f *fates) shown(e *journal.Entry) shown {
	id := f.a.o.Journal.ID(e.Seq)
	return shown{id: id, seq: e.Seq, event: &e.Event, route: f.a.o.Program.Route(e), size: len(e.Payload), fate: f.of(e.Seq, id)}
}

// cameIn is a payload before rules, without what the program has added.
func (a *API) cameIn(payload []byte) []byte {
	if len(payload) == 0 || payload[0] != '{' || !json.Valid(payload) {
		return payload
	}
	return event.Without(payload, event.NameField, a.o.Program.TimestampField())
}

// readPatience bounds how long reading the journal waits for an event that
// should be there: it may have been removed meanwhile.
const readPatience = 2 * time.Second

// read calls use with the stored events whose numbers are from first to last,
// in order, until it returns false.
func (a *API) read(ctx context.Context, first, last uint64, use func(*journal.Entry) bool) error {
	if first = max(first, 1); first > last {
		return nil
	}
	reader := a.o.Journal.Reader(first)
	buf := make([]journal.Entry, 64)
	for at := first; at <= last; {
		limited, cancel := context.WithTimeout(ctx, readPatience)
		entries, err := reader.Next(limited, buf)
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return nil // the rest is gone
		}
		if err != nil {
			return err
		}
		for i := range entries {
			if at = entries[i].Seq + 1; at > last+1 || !use(&entries[i]) {
				return nil
			}
		}
		clear(entries)
	}
	return nil
}
