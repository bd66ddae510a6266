package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"event2mqtt/internal/refused"
	"event2mqtt/internal/web/problem"
)

// This file is how events that the destination has refused are looked at, sent
// again, and dropped.

const refusedPath = "/api/v1/refused"

// RefusedList is the answer to GET: the events, oldest first, without their
// payloads, and what is wrong with files that hold none.
type RefusedList struct {
	Events   []refused.Event `json:"events"`
	Problems []string        `json:"problems,omitempty"`
}

// RefusedRequest asks for something to be done with refused events.
type RefusedRequest struct {
	Do  string   `json:"do"`            // send or drop
	IDs []string `json:"ids,omitempty"` // which; or
	All bool     `json:"all,omitempty"`
}

// RefusedOutcome says with which events it was done, and why not with others.
type RefusedOutcome struct {
	Done     []string `json:"done"`
	Problems []string `json:"problems,omitempty"`
}

// serveRefused answers 200, or 422 if something could not be done.
func (b *Bridge) serveRefused(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		problem.New(http.StatusMethodNotAllowed, "GET lists refused events, POST sends or drops them").Write(w)
		return
	}
	if !b.control.allows(r) {
		problem.New(http.StatusForbidden, "only programs on this machine may do this, or such as send http.token as a bearer token").Write(w)
		return
	}
	var answer any
	var problems []string
	if r.Method == http.MethodGet {
		list := b.listRefused()
		answer, problems = list, list.Problems
	} else {
		const most = refused.MaxEvents * 256 // an id has 200 bytes at most
		var request RefusedRequest
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
		if err == nil {
			err = json.Unmarshal(text, &request)
		}
		if err != nil || request.Do != "send" && request.Do != "drop" {
			problem.New(http.StatusBadRequest, `send JSON such as {"do":"send","all":true} or {"do":"drop","ids":["ID"]}`).Write(w)
			return
		}
		outcome := b.doRefused(r.Context(), request)
		answer, problems = outcome, outcome.Problems
	}
	w.Header().Set("Content-Type", "application/json")
	if problems != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (b *Bridge) listRefused() RefusedList {
	events, err := b.refused.List()
	list := RefusedList{Events: events}
	if err != nil {
		list.Problems = []string{err.Error()}
	}
	return list
}

// doRefused puts events back into the journal, or drops them. An event leaves
// the folder only when the journal has it.
func (b *Bridge) doRefused(ctx context.Context, request RefusedRequest) RefusedOutcome {
	ids := request.IDs
	if request.All {
		ids = nil
		for _, e := range b.listRefused().Events {
			ids = append(ids, e.ID)
		}
	}
	o := RefusedOutcome{Done: []string{}}
	for _, id := range ids {
		err := ctx.Err()
		if err == nil && request.Do == "send" {
			err = b.sendRefused(ctx, id)
		}
		if err == nil {
			err = b.refused.Remove(id)
		}
		if err != nil {
			o.Problems = append(o.Problems, err.Error())
			if !errors.Is(err, refused.ErrUnknown) {
				break // the others would fare the same
			}
			continue
		}
		o.Done = append(o.Done, id)
	}
	if len(o.Done) > 0 {
		b.log.Info().Strs("ids", o.Done[:min(len(o.Done), 20)]).Int("events", len(o.Done)).Msgf("refused events: %s", map[string]string{"send": "sent again", "drop": "dropped"}[request.Do])
	}
	return o
}

func (b *Bridge) sendRefused(ctx context.Context, id string) error {
	e, err := b.refused.Get(id)
	if err != nil {
		return err
	}
	if _, err := b.journal.Append(ctx, e.Event()); err != nil {
		return fmt.Errorf("store event %s: %w", id, err)
	}
	return nil
}

// Refused lists the refused events of the program that uses a state folder.
func Refused(ctx context.Context, stateDir string) (list RefusedList, err error) {
	err = ask(ctx, stateDir, http.MethodGet, refusedPath, nil, &list)
	return list, err
}

// AskRefused has the program that uses a state folder do something with
// refused events.
func AskRefused(ctx context.Context, stateDir string, request RefusedRequest) (o RefusedOutcome, err error) {
	err = ask(ctx, stateDir, http.MethodPost, refusedPath, request, &o)
	return o, err
}

// maxOverhead is how much larger than its payload any event's packet may be, in
// bytes: the longest topic, and what the time, the event's name and its id add.
const maxOverhead = 128 << 10

// checkPacket warns of payloads that are accepted and fit no packet.
func (p *Plan) checkPacket() {
	most := int64(p.MaxPayload) + maxOverhead
	if len(p.MQTT.URL) > 0 || int64(p.Broker.MaxPacket) >= most {
		return
	}
	text := fmt.Sprintf("max_payload is %s, and with topic and fields an event may need %d KiB more, but broker.max_packet is %s: larger events are skipped; set broker.max_packet to at least %dKiB", p.MaxPayload, maxOverhead>>10, p.Broker.MaxPacket, (most+1023)>>10)
	if !slices.Contains(p.doc.Warnings, text) {
		p.doc.Warnings = append(p.doc.Warnings, text)
	}
}
