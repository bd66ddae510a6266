package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
)

// This file is what becomes of the commands for one source.

// post is where the commands for one source wait. One goroutine does them.
type post struct {
	desk    *Desk
	name    string // of the source
	to      sources.Commander
	cancel  context.CancelFunc
	queue   chan *command
	allowed atomic.Pointer[map[string]bool]
	ignored [reasons]rarely
	silent  rarely // answers that were not published
	lost    rarely // events that were not stored
}

// open begins to take commands for a source.
func (d *Desk) open(s Source) *post {
	ctx, cancel := context.WithCancel(context.Background())
	p := &post{desk: d, name: s.Name, to: s.To, cancel: cancel, queue: make(chan *command, maxWaiting)}
	d.wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case c := <-p.queue:
				if ctx.Err() == nil { // select may prefer the queue
					p.handle(ctx, c)
				}
			}
		}
	})
	return p
}

func (p *post) allow(names []string) {
	allowed := map[string]bool{}
	for _, name := range names {
		allowed[name] = true
	}
	p.allowed.Store(&allowed)
}

func (p *post) allows(name string) bool { return (*p.allowed.Load())[name] }

// reason is why a command is ignored.
type reason int

const (
	own reason = iota
	notAllowed
	retained
	tooLarge
	late
	tooMany
	reasons // how many there are
)

var why = [reasons]string{
	own:        "event2mqtt itself has published it",
	notAllowed: "the source's option commands does not allow it",
	retained:   "it is retained, and a command must not be done again on each connection; publish it without the retain flag",
	tooLarge:   fmt.Sprintf("its payload has more than %d bytes", maxPayload),
	late:       fmt.Sprintf("it is older than %s", MaxAge),
	tooMany:    fmt.Sprintf("%d commands wait for this source already", maxWaiting),
}

// ignore says that a command is not done.
func (p *post) ignore(c *command, r reason) {
	if e := p.ignored[r].line(p.desk.opt.Log.Warn); e != nil {
		p.describe(e, c).Msg("a command is ignored: " + why[r])
	}
}

// describe adds which command it is. Names that are not allowed are anybody's
// text.
func (p *post) describe(e *zerolog.Event, c *command) *zerolog.Event {
	e = e.Str("source", p.name).Str("command", shorten(c.Name, MaxName))
	if c.From != "" {
		e = e.Str("from", shorten(c.From, 200))
	}
	return e
}

// outcome is what is published of a command that was given to its source.
type outcome struct {
	Command string          `json:"command"`
	ID      json.RawMessage `json:"id,omitempty"`
	OK      bool            `json:"ok"`
	Error   string          `json:"error,omitempty"`
	Reply   json.RawMessage `json:"reply,omitempty"`   // in the answer alone
	Payload json.RawMessage `json:"payload,omitempty"` // in the event alone
	Who     *who            `json:"who,omitempty"`
}

// handle has a command done, answers it, and stores the event. When ctx ends
// the command is cancelled; that is told, too.
func (p *post) handle(ctx context.Context, c *command) {
	switch {
	case !p.allows(c.Name): // any more
		p.ignore(c, notAllowed)
		c.end(outcome{Error: why[notAllowed]})
		return
	case time.Since(c.received) > MaxAge: // the source was busy
		p.ignore(c, late)
		c.end(outcome{Error: why[late]})
		return
	}
	began := time.Now()
	o := outcome{Command: c.Name, ID: c.id}
	if c.who != (who{}) {
		o.Who = &c.who
	}
	limited, cancel := context.WithTimeout(ctx, p.desk.opt.Timeout)
	defer cancel()
	done := make(chan struct{})
	var reply []byte
	var err error
	go func() { // waited for below
		defer close(done)
		reply, err = p.do(limited, c.Command)
	}()
	select {
	case <-done:
		o.end(limited, reply, err, p.desk.opt.Timeout)
	case <-limited.Done():
		o.end(limited, nil, limited.Err(), p.desk.opt.Timeout)
	}
	c.end(o)
	p.publish(ctx, c, o)
	p.store(ctx, c, o, began)
	<-done // one at a time
}

// end tells who waits for a command how it went.
func (c *command) end(o outcome) {
	if c.ended != nil {
		c.ended <- o
	}
}

// do calls the source. A panic is an error: one source's bug must not end the
// others.
func (p *post) do(ctx context.Context, c event.Command) (reply []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			p.desk.opt.Log.Error().Str("source", p.name).Msgf("command %s: panic: %v\n%s", c.Name, r, debug.Stack())
			err = errors.New("the program has a bug; its log says more")
		}
	}()
	return p.to.Do(ctx, c)
}

// end notes how it went.
func (o *outcome) end(ctx context.Context, reply []byte, err error, timeout time.Duration) {
	o.OK = err == nil
	switch {
	case err == nil && len(reply) > maxReply:
		o.Reply = event.String(fmt.Sprintf("it was done; the answer has %d bytes, which is too much", len(reply)))
	case err == nil && len(reply) > 0:
		o.Reply = asJSON(reply)
	case err == nil:
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		o.Error = fmt.Sprintf("the source did not answer within %s", timeout)
	case ctx.Err() != nil:
		o.Error = "the source is being stopped"
	default:
		o.Error = shorten(err.Error(), maxError)
	}
}

// patience bounds how long an answer or an event may take: the next command
// waits.
const patience = 5 * time.Second

// publish publishes the answer.
func (p *post) publish(ctx context.Context, c *command, o outcome) {
	p.desk.mu.RLock()
	link, field, millis := p.desk.config.Link, p.desk.config.TimestampField, p.desk.config.Millis
	p.desk.mu.RUnlock()
	if link == nil {
		return // the program ends
	}
	if field == "" {
		field = event.DefaultTimestampField
	}
	now := time.Now().Unix()
	if millis {
		now = time.Now().UnixMilli()
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := link.Say(last, c.answer, event.Set(encode(o), field, strconv.FormatInt(now, 10))); err != nil {
		if e := p.silent.line(p.desk.opt.Log.Warn); e != nil {
			p.describe(e, c).Err(err).Msg("the answer to a command was not published")
		}
	}
}

// store stores the event.
func (p *post) store(ctx context.Context, c *command, o outcome, at time.Time) {
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	o.Reply, o.Payload = nil, c.value
	for {
		err := p.desk.opt.Emit(last, p.name, event.Event{Name: EventName, Time: at, Payload: encode(o)})
		var refused *event.Refused
		switch {
		case err == nil:
			return
		case errors.As(err, &refused) && o.Payload != nil:
			o.Payload = nil // it is too large or too deep with what is around it
			continue
		case refused == nil && errors.Is(err, sources.ErrFull):
			select {
			case <-time.After(100 * time.Millisecond):
				continue
			case <-last.Done():
			}
		}
		if e := p.lost.line(p.desk.opt.Log.Error); e != nil {
			p.describe(e, c).Bool("ok", o.OK).Err(err).Msg("the event of a command could not be stored")
		}
		return
	}
}

func encode(o outcome) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(o); err != nil { // its raw parts were checked
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}

func shorten(text string, most int) string {
	if len(text) > most {
		text = text[:most] + "..."
	}
	return string(bytes.ToValidUTF8([]byte(text), []byte("?")))
}

// rarely lets one line through a minute: others must not be able to fill the log.
type rarely struct {
	mu      sync.Mutex
	last    time.Time
	leftOut int // since then
}

// line begins a line, or returns nil.
func (r *rarely) line(begin func() *zerolog.Event) *zerolog.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.last.IsZero() && time.Since(r.last) < time.Minute {
		r.leftOut++
		return nil
	}
	e := begin()
	if r.leftOut > 0 {
		e = e.Int("lines_left_out", r.leftOut)
	}
	r.last, r.leftOut = time.Now(), 0
	return e
}
