package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/web/problem"
)

// This file is streams: what happens, as it happens, by server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html) or as one
// JSON object on each line.

// Bounds of streams.
const (
	maxStreams = 16 // so that webhooks always find connections
	// maxOfAccount is how many of them one account of the broker may have: it
	// must not keep the page from whoever owns the program.
	maxOfAccount = 4
	// chunk is how much is written at a time, in bytes: what a peer that does not
	// read holds in memory.
	chunk      = 32 << 10
	chunkItems = 128
	// stall is how long a chunk may take.
	stall = 10 * time.Second
	// pingEvery is shorter than what proxies allow a silent answer.
	pingEvery = 15 * time.Second
	// frameEvery is the least time between two frames: browsers draw no faster.
	frameEvery = 100 * time.Millisecond
)

// feed writes a stream's answer.
type feed struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	sse   bool
	open  bool // a frame of items is begun
	seq   uint64
	count int    // items of events that may yet be written; -1 is any number
	buf   []byte // what is gathered to be written together
	err   error
	still func() bool // whether the caller may still read it; nil is always
}

// errNoMore ends a stream whose caller may not read it any more.
var errNoMore = errors.New("the caller would not be let in now")

// openFeed makes a stream, if there may be one more. ended gives its place back.
func (a *API) openFeed(w http.ResponseWriter, c call) (f *feed, ended func(), err error) {
	count := -1
	if text := c.param("count"); text != "" {
		if count, err = strconv.Atoi(text); err != nil || count < 1 {
			return nil, nil, invalid(fmt.Sprintf("count=%q is not a number of events", text))
		}
	}
	sse := strings.Contains(c.Header.Get("Accept"), "text/event-stream")
	switch format := c.param("format"); format {
	case "":
	case "sse", "ndjson":
		sse = format == "sse"
	default:
		return nil, nil, invalid(fmt.Sprintf("format=%q does not exist; there are sse and ndjson", format))
	}
	if a.ending.Err() != nil {
		return nil, nil, a.ending.Err()
	}
	account := ""
	if c.who.Rights != nil {
		account = c.who.Name
	}
	if why := a.streams.add(account); why != "" {
		return nil, nil, &problem.Details{
			Status: http.StatusTooManyRequests, Title: http.StatusText(http.StatusTooManyRequests), RetryAfter: 5 * time.Second, Detail: why,
		}
	}
	f = &feed{w: w, rc: http.NewResponseController(w), sse: sse, count: count, still: c.who.Still}
	return f, func() { a.streams.remove(account) }, nil
}

// begin begins the answer: no error can be answered any more.
func (f *feed) begin() {
	h := f.w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	if f.sse {
		h.Set("Content-Type", "text/event-stream")
	}
	h.Set("X-Accel-Buffering", "no") // nginx would keep it back
	f.w.WriteHeader(http.StatusOK)
	if f.sse {
		f.write("retry: 2000\n\n")
	}
}

// Streams is how many there are.
func (a *API) Streams() int {
	a.streams.mu.Lock()
	defer a.streams.mu.Unlock()
	return a.streams.all
}

// streams counts those that are open. The zero value is ready.
type streams struct {
	mu  sync.Mutex
	all int
	of  map[string]int // accounts of the broker
}

// add counts one more, or says why there may be none. account is empty for
// whoever may do everything.
func (s *streams) add(account string) (why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.all >= maxStreams:
		return fmt.Sprintf("there are %d streams, which is the most that is allowed; close a tab or a program that watches", maxStreams)
	case account != "" && s.of[account] >= maxOfAccount:
		return fmt.Sprintf("this account has %d streams open, which is the most that one may have; close one", maxOfAccount)
	case s.of == nil:
		s.of = map[string]int{}
	}
	s.all++
	s.of[account]++
	return ""
}

func (s *streams) remove(account string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.of[account]--; s.of[account] == 0 {
		delete(s.of, account)
	}
}

// write adds pieces to what is written next.
func (f *feed) write(pieces ...string) {
	for _, p := range pieces {
		f.buf = append(f.buf, p...)
	}
	f.spill()
}

// spill writes what has been gathered, if that is a chunk.
func (f *feed) spill() {
	if len(f.buf) >= chunk {
		f.send()
	}
}

// send writes what has been gathered, with a deadline of its own: nothing any
// more once the token has changed that the caller came with.
func (f *feed) send() {
	if f.err == nil && f.still != nil && !f.still() {
		f.err = errNoMore
	}
	if f.err == nil && len(f.buf) > 0 {
		_ = f.rc.SetWriteDeadline(time.Now().Add(stall)) // a recorder in tests has none
		_, f.err = f.w.Write(f.buf)
	}
	if f.buf = f.buf[:0]; cap(f.buf) > 2*chunk {
		f.buf = nil // a large message is not to be kept room for
	}
}

func (f *feed) flush() {
	f.send()
	if f.err == nil {
		if f.err = f.rc.Flush(); errors.Is(f.err, http.ErrNotSupported) {
			f.err = nil
		}
	}
}

// items writes items. endItems ends the frame that they are in.
func (f *feed) items(items []item) {
	for i := range items {
		it := &items[i]
		if it.kind == stateItem {
			if f.sse {
				f.endItems()
				f.write("event: state\ndata: ", string(it.text), "\n\n")
			}
			continue
		}
		if f.count == 0 {
			return
		}
		if f.count > 0 && it.kind == eventItem {
			f.count--
		}
		f.item(it.text, it.seq)
	}
}

// item writes one item.
func (f *feed) item(text []byte, seq uint64) {
	f.seq = max(f.seq, seq)
	switch {
	case !f.sse:
	case f.open:
		f.buf = append(f.buf, ',')
	default:
		f.open = true
		f.buf = append(f.buf, "event: items\ndata: ["...)
	}
	if f.buf = append(f.buf, text...); !f.sse {
		f.buf = append(f.buf, '\n')
	}
	f.spill()
}

// endItems ends a frame.
func (f *feed) endItems() {
	if f.open {
		f.open = false
		f.write("]\n")
		if f.seq > 0 {
			f.write("id: ", strconv.FormatUint(f.seq, 10), "\n")
		}
		f.write("\n")
	}
}

// say writes something that is no item.
func (f *feed) say(kind, object string) {
	if f.sse {
		f.endItems()
		f.write("event: ", kind, "\ndata: ", object, "\n\n")
		return
	}
	line := `{"type":"` + kind + `"`
	if object != "{}" {
		line += "," + object[1:len(object)-1]
	}
	f.write(line, "}\n")
}

func (f *feed) gap(n uint64) {
	if n > 0 {
		f.say("gap", fmt.Sprintf(`{"left_out":%d}`, n))
	}
}

// over reports whether the stream has ended by itself.
func (f *feed) over() bool { return f.err != nil || f.count == 0 }

// origin is where a stream begins.
type beginning struct {
	seq  uint64 // the first number; 0 is now
	time time.Time
}

// parseSince reads where a stream begins, of its parameters and headers.
func (a *API) parseSince(v url.Values, h http.Header) (b beginning, err error) {
	text := v.Get("since")
	switch {
	case text == "":
	case text == "all":
		b.seq = 1
	default:
		if n, bad := strconv.ParseUint(text, 10, 62); bad == nil {
			b.seq = n + 1
		} else if d, bad := config.ParseDuration(text); bad == nil {
			b.time = time.Now().Add(-d)
		} else if b.time, err = time.Parse(time.RFC3339, text); err != nil {
			return b, invalid(fmt.Sprintf("since=%q is not where a stream can begin; write the number of an event, 10m, 2026-01-31T12:00:00Z or all", text))
		}
	}
	if n, bad := strconv.ParseUint(h.Get("Last-Event-ID"), 10, 62); bad == nil && n+1 > b.seq {
		b = beginning{seq: n + 1} // it comes back, and has seen so much
	}
	return b, nil
}

// getStream tells what happens, from some time on.
func (a *API) getStream(w http.ResponseWriter, c call) error {
	q, err := parseQuery(c.URL.Query())
	if err != nil {
		return err
	}
	begin, err := a.parseSince(c.URL.Query(), c.Header)
	if err != nil {
		return err
	}
	f, ended, err := a.openFeed(w, c)
	if err != nil {
		return err
	}
	defer ended()
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	defer context.AfterFunc(a.ending, cancel)()
	place, told := a.hub.attach(q)
	defer place.leave()
	f.begin()
	if f.sse {
		text, err := json.Marshal(a.state())
		if err != nil { // it cannot fail
			return nil
		}
		f.say("state", string(text))
	}
	f.flush()
	if begin != (beginning{}) {
		a.catchUp(ctx, f, place, begin, told)
	}
	if c.param("poll") == "" {
		place.follow(ctx, f, a.state)
	}
	f.endItems()
	f.flush()
	return nil
}

// catchUp writes the stored events from a beginning up to a number, and those
// that are stored meanwhile, so that the stream goes on without a gap.
func (a *API) catchUp(ctx context.Context, f *feed, place *client, b beginning, upTo uint64) {
	reader := a.o.Journal.Reader(b.seq)
	if b.seq == 0 {
		reader = a.o.Journal.ReaderSince(b.time)
	}
	buf := make([]journal.Entry, 64)
	for at := uint64(0); !f.over(); {
		last, skipped := upTo, false
		if at >= last { // it took so long that the ring has gone by
			if last, skipped = place.skip(); !skipped {
				break
			}
			upTo = last
			continue
		}
		fates := a.fates()
		limited, cancel := context.WithTimeout(ctx, readPatience)
		entries, err := reader.Next(limited, buf)
		cancel()
		if err != nil {
			if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
				return
			}
			at = last // the rest is gone
			continue
		}
		for i := range entries {
			e := &entries[i]
			if at = e.Seq; at > last || f.over() {
				break
			}
			if place.filter.entry(e, &fates) {
				if f.count > 0 {
					f.count--
				}
				f.item(fates.append(nil, e), e.Seq)
			}
		}
		clear(entries)
	}
	f.gap(reader.Missed())
	f.endItems()
	f.flush()
}

// follow writes what happens until ctx ends, or nobody reads it.
func (c *client) follow(ctx context.Context, f *feed, state func() *State) {
	buf := make([]item, 0, chunkItems)
	silent := time.NewTimer(pingEvery)
	defer silent.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	<-pause.C
	every := frameEvery
	if !f.sse {
		every = gather
	}
	for !f.over() {
		select {
		case <-ctx.Done():
			return
		case <-silent.C:
			f.say("ping", "{}")
			f.flush()
		case <-c.changed:
			began := time.Now()
			c.drain(ctx, f, buf, state)
			pause.Reset(every - min(every, time.Since(began)))
			select {
			case <-ctx.Done():
				return
			case <-pause.C:
			}
		}
		silent.Reset(pingEvery)
	}
}

// drain writes all that there is.
func (c *client) drain(ctx context.Context, f *feed, buf []item, state func() *State) {
	for more := true; more && !f.over() && ctx.Err() == nil; {
		var items []item
		var lost int
		if items, lost, more = c.take(buf[:0], chunk); lost > 0 {
			f.gap(uint64(lost))
			if text, err := json.Marshal(state()); err == nil && f.sse { // a change may be among what was lost
				f.say("state", string(text))
			}
		}
		f.items(items)
		clear(items)
	}
	f.endItems()
	f.flush()
}
