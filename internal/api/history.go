package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"event2mqtt/internal/journal"
)

// This file is what has happened: the journal, in pages.

// Bounds of one page.
const (
	pageEvents  = 100 // unless the request says otherwise
	maxPage     = 500
	maxPageSize = 2 << 20  // bytes of answers
	maxScan     = 64 << 20 // bytes of the journal that are looked at
	maxScanTime = time.Second
)

// page is a part of history.
type page struct {
	Events []json.RawMessage `json:"events"` // the newest first
	// Next is the number before which the next page begins; null is none.
	Next *uint64 `json:"next"`
	// Found is how many events fit, as far as was looked.
	Found int `json:"found"`
	// Whole is false if not all of the journal was looked at for Found.
	Whole bool `json:"whole"`
}

// span are the numbers that a page is looked for in.
type span struct{ first, last uint64 }

// getEvents answers a page, the newest events first.
func (a *API) getEvents(w http.ResponseWriter, c call) error {
	v := c.URL.Query()
	q, err := parseQuery(v)
	if err != nil {
		return err
	}
	limit := pageEvents
	if text := v.Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 {
			return invalid(fmt.Sprintf("limit=%q is not a number of events", text))
		}
		limit = min(limit, maxPage)
	}
	within := span{1, a.o.Journal.Stats().Last}
	before, err := number(v, "before")
	if err != nil {
		return err
	}
	if before > 0 {
		within.last = min(within.last, before-1)
	}
	after, err := number(v, "after")
	if err != nil {
		return err
	}
	if after > 0 {
		return a.getAfter(w, c, q, span{after + 1, within.last}, limit)
	}
	counts := before == 0 && limit > 1 // else nobody asks how many there are
	p, err := a.page(c.Context(), q, within, limit, counts)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, p)
}

// number reads a parameter that is the number of an event; 0 is none.
func number(v url.Values, name string) (uint64, error) {
	text := v.Get(name)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 62)
	if err != nil {
		return 0, invalid(fmt.Sprintf("%s=%q is not the number of an event", name, text))
	}
	return n, nil
}

// getAfter answers the first events of a span, for those who ask again and
// again; as in each page, the newest first.
func (a *API) getAfter(w http.ResponseWriter, c call, q query, within span, limit int) error {
	p := page{Events: []json.RawMessage{}, Whole: true}
	fates := a.fates()
	b := newBudget()
	size := 0
	err := a.read(c.Context(), within.first, within.last, func(e *journal.Entry) bool {
		if b.spent(e) {
			p.Whole = false
			return false
		}
		if q.entry(e, &fates) {
			p.Events = append(p.Events, fates.append(nil, e))
			p.Found++
			size += len(p.Events[len(p.Events)-1])
		}
		return len(p.Events) < limit && size < maxPageSize
	})
	if err != nil {
		return err
	}
	slices.Reverse(p.Events)
	return answer(w, http.StatusOK, p)
}

// budget bounds how much of the journal a request looks at.
type budget struct {
	end   time.Time
	bytes int
	n     int
}

func newBudget() budget { return budget{end: time.Now().Add(maxScanTime), bytes: maxScan} }

// spent reports whether no more may be looked at.
func (b *budget) spent(e *journal.Entry) bool {
	b.bytes -= len(e.Payload) + 64
	if b.n++; b.n%256 == 0 && time.Now().After(b.end) {
		b.bytes = -1
	}
	return b.bytes < 0
}

// page finds the newest events of a span. The journal is read in order only, so
// it goes back by segments, and through each in order. Without counts it goes no
// further back once the page is full.
func (a *API) page(ctx context.Context, q query, within span, limit int, counts bool) (*page, error) {
	p := &page{Events: []json.RawMessage{}, Whole: true}
	fates := a.fates()
	b := newBudget()
	size, next := 0, uint64(0)
	for i, part := range a.spans(q, within) {
		if !counts && len(p.Events) == limit {
			p.Whole = false
			break
		}
		var found []json.RawMessage // the newest of this segment that have room
		var numbers []uint64
		spent := false
		err := a.read(ctx, part.first, part.last, func(e *journal.Entry) bool {
			if spent = b.spent(e) && i > 0; spent { // one at least, so that the next page is another
				return false
			}
			if !q.entry(e, &fates) {
				return true
			}
			p.Found++
			room := limit - len(p.Events)
			if room == 0 {
				return true
			}
			if len(found) == room {
				found, numbers = found[1:], numbers[1:]
			}
			found, numbers = append(found, fates.append(nil, e)), append(numbers, e.Seq)
			return true
		})
		if err != nil {
			return nil, err
		}
		if spent {
			// What was read of this segment is its older part: it is found again
			// on the next page.
			p.Whole = false
			if len(p.Events) < limit {
				next = part.last + 1
			}
			break
		}
		for i, text := range slices.Backward(found) {
			if size += len(text); size > maxPageSize && len(p.Events) > 0 {
				limit = len(p.Events)
				break
			}
			p.Events, next = append(p.Events, text), numbers[i]
		}
	}
	if !p.Whole || p.Found > len(p.Events) {
		p.Next = &next
	}
	return p, nil
}

// spans are the parts of a span by segments of the journal, the newest first,
// without those that were written before what is asked for.
func (a *API) spans(q query, within span) (all []span) {
	for _, s := range slices.Backward(a.o.Journal.Segments()) {
		if !q.from.IsZero() && s.Modified.Before(q.from.Add(-time.Minute)) {
			break
		}
		part := span{max(s.First, within.first), min(s.Last, within.last)}
		if part.first <= part.last {
			all = append(all, part)
		}
	}
	return all
}

// getEvent answers one event, whole.
func (a *API) getEvent(w http.ResponseWriter, c call) error {
	seq, err := strconv.ParseUint(c.PathValue("seq"), 10, 62)
	if err != nil || seq == 0 {
		return notFound("events are named by their numbers")
	}
	var found []byte
	fates := a.fates()
	err = a.read(c.Context(), seq, min(seq, a.o.Journal.Stats().Last), func(e *journal.Entry) bool {
		if e.Seq == seq {
			s := fates.shown(e)
			s.whole = true
			found = s.append(nil)
		}
		return false
	})
	if err != nil {
		return err
	}
	if found == nil {
		return notFound(fmt.Sprintf("event %d is not kept, or was never stored", seq))
	}
	return answer(w, http.StatusOK, json.RawMessage(found))
}
