package commands

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/rs/zerolog"

	"event2mqtt/internal/loglimit"
	"event2mqtt/internal/sinks"
)

// This file is what becomes of commands that are not done: the log says why, and
// so does an answer, where somebody waits for it. Whoever may publish to the
// topics of commands can cause both, so both are bounded.

// reason is why a command is ignored.
type reason int

const (
	own reason = iota
	notAllowed
	retained
	tooLarge
	late
	early
	waited
	tooMany
	ended
	off
	noCommands
	reasons // how many there are
)

var why = [reasons]string{
	own:        "event2mqtt itself has published it",
	notAllowed: "the source's option commands does not allow it",
	retained:   "it is retained, and a command must not be done again on each connection; publish it without the retain flag",
	tooLarge:   fmt.Sprintf("its payload has more than %d bytes", maxPayload),
	late:       fmt.Sprintf("it is older than %s", MaxAge),
	early:      fmt.Sprintf("its time is more than %s in the future, so its age is unknown; check the sender's clock", MaxAge),
	waited:     fmt.Sprintf("it is older than %s, since the source was busy with others", MaxAge),
	tooMany:    fmt.Sprintf("%d commands wait for this source already", maxWaiting),
	ended:      "the source is being stopped",
	off:        "the source's option commands allows none",
	noCommands: "a source of this type takes no commands",
}

// ignore says that a command is not done.
func (p *post) ignore(c *command, r reason) { p.desk.ignore(&p.ignored, c, r) }

// ignore says that a command for a source that is configured is not done. said
// are the limits of that source.
func (d *Desk) ignore(said *[reasons]loglimit.Limit, c *command, r reason) {
	if e := said[r].Line(d.opt.Log.Warn); e != nil {
		c.describe(e).Msg("a command is ignored: " + why[r])
	}
	c.end(outcome{Error: why[r]})
	if !c.unanswered {
		d.refuse(c, why[r])
	}
}

// refuse answers a command that is not done, unless too many answers are on
// their way. It does not wait.
func (d *Desk) refuse(c *command, because string) {
	select {
	case d.answers <- struct{}{}:
	default:
		return
	}
	d.wg.Go(func() {
		defer func() { <-d.answers }()
		o := c.outcome()
		o.Error = because
		d.publish(context.Background(), c, o) // for a bounded time
	})
}

// describe adds which command it is. Names that are not allowed are anybody's
// text.
func (c *command) describe(e *zerolog.Event) *zerolog.Event {
	e = e.Str("source", shorten(c.Source, 200)).Str("command", shorten(c.Name, MaxName))
	if c.From != "" {
		e = e.Str("from", shorten(c.From, 200))
	}
	return e
}

// quiet is a source that takes no commands.
type quiet struct {
	name    string
	why     reason
	ignored [reasons]loglimit.Limit
}

// Subscriber is the bundled broker, as far as it is needed to hear of commands
// that nobody takes. A broker in the network is not asked for them: it may end
// the connection of a client that subscribes to what it must not read, and most
// people give no commands.
type Subscriber interface {
	// Subscribe is that of sinks.Broker.
	Subscribe(filter string, use func(sinks.Incoming)) (cancel func(), err error)
}

// ears are the subscriptions at one broker, by filter.
type ears struct {
	at      Subscriber
	cancels map[string]func()
}

// listen hears of commands that nobody takes, as far as the broker tells. What
// is subscribed to already stays, so that nothing retained comes again.
// d.configuring is held, and d.mu is not: whoever uses a message takes it.
func (d *Desk) listen(c Config) {
	wanted := map[string]bool{}
	if c.Broker != nil {
		wanted[c.Base+"/+/set/+"] = true
		for _, s := range c.Sources {
			if at := Topic(c.Base, s.Name); len(s.Allowed) == 0 && strings.Count(at, "/") != strings.Count(c.Base, "/")+3 {
				wanted[at+"+"] = true // of more levels
			}
		}
	}
	for filter, cancel := range d.ears.cancels {
		if d.ears.at != c.Broker || !wanted[filter] {
			cancel()
			delete(d.ears.cancels, filter)
		}
	}
	d.ears.at = c.Broker
	if d.ears.cancels == nil {
		d.ears.cancels = map[string]func(){}
	}
	for _, filter := range slices.Sorted(maps.Keys(wanted)) {
		if d.ears.cancels[filter] != nil {
			continue
		}
		cancel, err := c.Broker.Subscribe(filter, d.overhear)
		if err != nil {
			d.opt.Log.Warn().Err(err).Msg("commands that no source takes are ignored in silence")
			return
		}
		d.ears.cancels[filter] = cancel
	}
}

// overhear says why a command is ignored that Take is not given. One for a
// source that is not configured here is not answered: the source may be that of
// another installation.
func (d *Desk) overhear(in sinks.Incoming) {
	if in.Own {
		return // such as an event that a rule sends to another program
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	at := in.Topic[:strings.LastIndexByte(in.Topic, '/')+1]
	if p := d.posts[at]; p != nil {
		if p.deaf() {
			p.ignore(d.read(in, p.name), off)
		}
		return
	}
	if q := d.deaf[at]; q != nil {
		d.ignore(&q.ignored, d.read(in, q.name), q.why)
		return
	}
	if in.Retained {
		return // it is old, and most likely another program's
	}
	if e := d.unknown.Line(d.opt.Log.Info); e != nil {
		name := strings.TrimSuffix(strings.TrimPrefix(at, d.config.Base+"/"), "/set/")
		d.read(in, name).describe(e).Msg("a command is ignored: no source of this name is configured")
	}
}
