package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/loglimit"
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
	ignored [reasons]loglimit.Limit
	lost    loglimit.Limit // events that were not stored
}

// open begins to take commands for a source.
func (d *Desk) open(s Source) *post {
	ctx, cancel := context.WithCancel(context.Background())
	p := &post{desk: d, name: s.Name, to: s.To, cancel: cancel, queue: make(chan *command, maxWaiting)}
	d.wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				p.empty()
				return
			case c := <-p.queue:
				if ctx.Err() != nil { // select may prefer the queue
					p.ignore(c, ended)
					continue
				}
				p.handle(ctx, c)
			}
		}
	})
	return p
}

// empty ignores what waits for a source that is gone. Nothing more comes.
func (p *post) empty() {
	for {
		select {
		case c := <-p.queue:
			p.ignore(c, ended)
		default:
			return
		}
	}
}

func (p *post) allow(names []string) {
	allowed := map[string]bool{}
	for _, name := range names {
		allowed[name] = true
	}
	p.allowed.Store(&allowed)
}

func (p *post) allows(name string) bool { return (*p.allowed.Load())[name] }

// deaf reports whether no command is allowed any more.
func (p *post) deaf() bool { return len(*p.allowed.Load()) == 0 }

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

// outcome is what can be said of a command before anything is done.
func (c *command) outcome() outcome {
	o := outcome{Command: shorten(c.Name, MaxName), ID: c.id}
	if c.who != (who{}) {
		o.Who = &c.who
	}
	return o
}

// handle has a command done, answers it, and stores the event. When ctx ends
// the command is cancelled; that is told, too.
func (p *post) handle(ctx context.Context, c *command) {
	switch {
	case !p.allows(c.Name): // any more
		p.ignore(c, notAllowed)
		return
	case time.Since(c.received) > MaxAge: // the source was busy
		p.ignore(c, waited)
		return
	}
	began := time.Now()
	o := c.outcome()
	limited, cancel := context.WithTimeout(ctx, p.desk.opt.Timeout)
	defer cancel()
	done := make(chan struct{})
	var reply []byte
	var err error
	go func() { // waited for below, if it ends
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
	p.desk.publish(ctx, c, o)
	p.store(ctx, c, o, began)
	select { // one at a time
	case <-done:
	case <-ctx.Done():
		p.abandon(c, done)
	}
}

// abandon waits until a command that was cancelled, as its source ends, has
// ended. One that does not is left: it must not keep the program from ending.
func (p *post) abandon(c *command, done <-chan struct{}) {
	patience := time.NewTimer(p.desk.opt.Grace)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
		c.describe(p.desk.opt.Log.Error()).Msgf("the source did not give up its command within %s of being told to; it is no longer waited for, which is a bug of the source", p.desk.opt.Grace)
	}
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
func (d *Desk) publish(ctx context.Context, c *command, o outcome) {
	d.mu.RLock()
	link, field, millis := d.config.Link, d.config.TimestampField, d.config.Millis
	d.mu.RUnlock()
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
		if e := d.silent.Line(d.opt.Log.Warn); e != nil {
			c.describe(e).Err(err).Msg("the answer to a command was not published")
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
		if e := p.lost.Line(p.desk.opt.Log.Error); e != nil {
			c.describe(e).Bool("ok", o.OK).Err(err).Msg("the event of a command could not be stored")
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
