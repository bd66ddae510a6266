package bridge

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/bundled"
	"event2mqtt/internal/config"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sources"
)

// This file is the whole of how a configuration comes to run: at the start,
// when nothing runs, and whenever it changes.
//
// What a change asks for is built and checked beside what runs (build). Only
// then is anything that runs touched, and each such step knows its way back
// (swap). When all of it holds, what is of no more use is drained and ended
// (finish); should a step fail, those before it are undone in reverse and the
// old goes on. What is the same in both configurations is carried over as it
// is: it does not notice.

// running is what runs. It is not changed, but replaced by another.
type running struct {
	plan   *Plan
	since  time.Time
	broker *bundled.Broker // nil with an external one
	parts  []*component    // in the order in which they are started
}

// wanted is a part that a plan asks for.
type wanted struct {
	title, name string
	// spec is all that the part is built of: if a part that runs has an equal
	// one, it is carried over.
	spec any
	// build makes the part; old is the one in whose place it comes, or nil.
	build func(old *component) (*component, error)
	// adjust, if set, brings a part that is carried over up to date, and says
	// what has changed; undo takes that back.
	adjust func(*component) (changed string, undo func(), err error)
	// added and changed say what happens, for people.
	added, changed string
}

// change is one configuration taking the place of another.
type change struct {
	*Bridge
	old, new  *running
	began     uint64 // of the states
	undoing   []func()
	ending    []func()
	adjusting []func() error // parts that are carried over
	report    []string       // what is different, for people

	listeners bundled.Change
}

// apply makes the bridge run what a plan says, and returns what has changed.
// On error everything is as before. One goroutine calls it.
func (b *Bridge) apply(plan *Plan) (report []string, err error) {
	b.replaced.Wait() // nothing is opened again before it is closed
	c := &change{Bridge: b, old: b.now, new: &running{plan: plan, since: time.Now()}, began: b.states.Mark()}
	for _, step := range []func() error{c.check, c.build, c.swap} {
		if err := step(); err != nil {
			for _, undo := range slices.Backward(c.undoing) {
				undo()
			}
			b.wakeCursors() // of sinks that would have been added
			return nil, err
		}
	}
	b.mu.Lock()
	b.now = c.new
	b.mu.Unlock()
	c.holdMirrored(plan)
	c.presentSources()
	c.announcer.poke()
	c.finish()
	b.wakeCursors() // journal.keep may be another
	return c.report, nil
}

// required are the places of the sinks that a receipt waits for.
func (r *running) required() *[]*journal.Cursor {
	var all []*journal.Cursor
	for i, o := range r.plan.sinks {
		if o.Base().Required {
			all = append(all, r.parts[i].cursor) // sinks are the first parts
		}
	}
	return &all
}

// undo notes the way back from what was just done.
func (c *change) undo(f func()) { c.undoing = append(c.undoing, f) }

// end notes what is to be done once nothing can fail any more.
func (c *change) end(f func()) { c.ending = append(c.ending, f) }

func (c *change) say(format string, args ...any) {
	c.report = append(c.report, fmt.Sprintf(format, args...))
}

// starting reports whether nothing runs yet.
func (c *change) starting() bool { return c.old.plan == nil }

// check refuses what cannot change while the program runs: where things are
// kept, and how.
func (c *change) check() error {
	if c.starting() {
		return nil
	}
	old, plan := &c.old.plan.Config, &c.new.plan.Config
	var problems config.Problems
	for _, fixed := range []struct {
		key     string
		changed bool
	}{
		{"journal.path", old.Journal.Path != plan.Journal.Path},
		{"journal.sync", old.Journal.Sync != plan.Journal.Sync},
		{"journal.sync_interval", old.Journal.SyncInterval != plan.Journal.SyncInterval},
		{"broker.persistence", c.old.broker != nil && len(plan.MQTT.URL) == 0 && old.Broker.Persistence != plan.Broker.Persistence},
	} {
		if fixed.changed {
			problems = append(problems, c.new.plan.problem(fixed.key, "cannot change while the program runs; restart it for that"))
		}
	}
	if problems != nil {
		return problems
	}
	return nil
}

// build makes what is new, beside what runs. It opens what can be opened only
// once, sockets and the broker's store; nothing of it is served yet.
func (c *change) build() error {
	if err := c.buildBroker(); err != nil {
		return err
	}
	parts, err := c.wanted()
	if err != nil {
		return err
	}
	for _, w := range parts {
		old := c.old.part(w.title)
		if old != nil && reflect.DeepEqual(old.spec, w.spec) {
			c.new.parts = append(c.new.parts, old)
			if w.adjust != nil {
				c.adjusting = append(c.adjusting, func() error { return c.adjustPart(w, old) })
			}
			continue
		}
		fresh, err := w.build(old)
		if err != nil {
			return err
		}
		fresh.title, fresh.name, fresh.spec, fresh.log = w.title, w.name, w.spec, c.log
		c.new.parts = append(c.new.parts, fresh)
		what := w.added
		if old != nil {
			what = w.changed
		} else if fresh.place != "" && !c.starting() {
			what += "; " + fresh.place
		}
		if _, ok := fresh.part.(sources.Source); ok && old == nil && !c.starting() {
			c.undo(func() { c.dropSource(w.name, c.old.plan) })
		}
		if what != "" {
			c.say("%s: %s", w.title, what)
		}
	}
	return nil
}

func (c *change) adjustPart(w wanted, part *component) error {
	changed, undo, err := w.adjust(part)
	if err != nil {
		return err
	}
	if changed != "" {
		c.undo(undo)
		c.say("%s", changed)
	}
	return nil
}

func (c *change) buildBroker() (err error) {
	plan := c.new.plan
	if len(plan.MQTT.URL) > 0 {
		return nil
	}
	if c.new.broker = c.old.broker; c.new.broker == nil {
		if c.new.broker, err = bundled.Open(bundled.Options{
			Config: plan.Broker, StateDir: c.stateDir, Version: plan.Version, Gate: c.web, Log: c.logs.part("broker"),
		}); err != nil {
			return err
		}
		c.undo(c.new.broker.Stop)
		c.say("bundled broker: started")
	}
	c.listeners = c.new.broker.Compare(plan.Broker)
	for _, spec := range c.listeners.Missing {
		l, err := c.new.broker.Listen(c.sockets, spec)
		if err != nil {
			return err
		}
		c.undo(func() { _ = l.Close() })
		c.listeners.Fresh = append(c.listeners.Fresh, l)
	}
	return nil
}

// part returns a part by its title, or nil.
func (r *running) part(title string) *component {
	for _, c := range r.parts {
		if c.title == title {
			return c
		}
	}
	return nil
}

// swap lets what is new take over. The broker comes before the sinks, since they
// may publish to it, and what is listened on for events comes last.
func (c *change) swap() error {
	if c.starting() { // events must find how they are shaped
		c.expectSources()
		if err := c.swapInPlace(); err != nil {
			return err
		}
	}
	c.swapListeners()
	for _, last := range []bool{false, true} {
		var started []*component
		for _, part := range c.new.parts {
			if old := c.old.part(part.title); part.last == last && old != part {
				c.replace(old, part)
				started = append(started, part)
			}
		}
		if err := c.await(started); err != nil {
			return err
		}
	}
	for _, part := range c.old.parts {
		if c.new.part(part.title) == nil {
			c.remove(part)
		}
	}
	if c.starting() {
		return nil
	}
	// Last, since not all that follows from it could be taken back: sessions
	// of users that are no more end, and what is too much for smaller limits.
	if err := c.swapInPlace(); err != nil {
		return err
	}
	return c.swapAccounts()
}

// await waits until components have begun. What fails at the program's start
// is tried again, and the others need not wait for it.
func (c *change) await(started []*component) error {
	patience := 5 * time.Second // what takes longer has not failed
	if c.starting() {
		patience = time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, component := range started {
		if err := component.begun(ctx); err != nil && !c.starting() {
			return err
		}
	}
	return nil
}

// replace starts a component in the place of another, which may be nil.
func (c *change) replace(old, fresh *component) {
	if old != nil {
		if old.alone || fresh.alone {
			old.stop()
			c.undo(old.start)
		} else {
			c.endPart(old)
		}
	}
	fresh.start()
	if fresh.last { // before its listener is closed
		c.undo(func() { fresh.cancel(); c.draining.Go(fresh.stop) })
	} else {
		c.undo(fresh.stop)
	}
}

// endPart has a component end once nothing can fail any more.
func (c *change) endPart(part *component) {
	if part.last {
		c.end(func() { c.draining.Go(part.stop) })
	} else {
		c.end(part.stop)
	}
}

// remove ends a part that is no longer wanted.
func (c *change) remove(part *component) {
	plan := c.new.plan
	switch part.part.(type) {
	case sinks.Sink:
		c.say("%s: removed; %s not delivered there yet; its place is kept for %s, as far as the journal has room", part.title, was(part.lag(), "event"), config.DurationText(plan.Journal.Keep))
		c.end(func() {
			part.stop()
			c.leaveCursor(part)
		})
	case sources.Source:
		c.say("%s: removed", part.title)
		c.end(func() {
			part.stop()
			c.dropSource(part.name, plan)
		})
	}
}

// dropSource forgets a source that a plan does not have.
func (b *Bridge) dropSource(name string, plan *Plan) {
	b.forgetSource(name)
	b.keepNames(plan)
	b.counts.forget(name)
	b.mirrored.forget(name)
}

func (c *change) swapListeners() {
	b := c.new.broker
	if c.old.broker != nil && b == nil {
		c.say("bundled broker: ended")
		c.end(c.old.broker.Stop)
	}
	if b == nil {
		return
	}
	before := b.SetListeners(slices.Concat(c.listeners.Kept, c.listeners.Fresh))
	c.undo(func() { b.SetListeners(before) })
	for _, l := range c.listeners.Fresh {
		b.Start(l)
		c.say("bundled broker: listens on %s", l)
	}
	for _, l := range c.listeners.Surplus {
		c.say("bundled broker: no longer listens on %s", l)
		c.end(func() { _ = l.Close() })
	}
}

func (c *change) swapAccounts() error {
	b, old, plan := c.new.broker, c.old.plan, c.new.plan
	if b == nil || b != c.old.broker || reflect.DeepEqual(old.Broker.Live(), plan.Broker.Live()) {
		return nil
	}
	c.undo(func() { _ = b.Configure(old.Broker) })
	if err := b.Configure(plan.Broker); err != nil {
		return plan.explain("broker", err)
	}
	c.say("bundled broker: accounts and limits changed")
	return nil
}

// swapInPlace changes what running parts look at each time they use it.
func (c *change) swapInPlace() error {
	old, plan := c.old.plan, c.new.plan
	for _, adjust := range c.adjusting {
		if err := adjust(); err != nil {
			return err
		}
	}
	c.adjust(c.new)
	before, pipeline := c.pipeline.Load(), c.newPipeline(plan)
	c.pipeline.Store(pipeline)
	if c.starting() {
		c.restoreHeld() // before anything newer comes
		c.devices.learned.Reopen()
		c.keepNames(plan)
		return nil
	}
	c.undo(func() {
		c.adjust(c.old)
		c.pipeline.Store(before)
		before.rules.Adopt(pipeline.rules) // what its rules held meanwhile
		c.wakeHeld()
	})
	c.end(func() { c.keepNames(plan) })
	c.end(func() { // what rules hold that are no more is sent
		pipeline.rules.Adopt(before.rules)
		c.wakeHeld()
	})
	for _, part := range []struct {
		what    string
		changed bool
	}{
		{"home_assistant: changed", old.HomeAssistant != plan.HomeAssistant},
		{"journal: limits changed", old.Journal != plan.Journal},
		{"log: changed", old.Log != plan.Log},
		{"rules: changed", !reflect.DeepEqual(old.Rules, plan.Rules)},
		{"max_payload: changed", old.MaxPayload != plan.MaxPayload},
		{"shutdown_timeout: changed", old.ShutdownTimeout != plan.ShutdownTimeout},
		{"http.token: changed", old.HTTP.Token != plan.HTTP.Token},
		{"http.max_connections: changed", old.HTTP.MaxConnections != plan.HTTP.MaxConnections},
		{"http.origins: changed", !slices.Equal(old.HTTP.Origins, plan.HTTP.Origins)},
		{"http.hosts: changed", !slices.Equal(old.HTTP.Hosts, plan.HTTP.Hosts)},
		{"http.trusted_proxies: changed", !slices.Equal(old.HTTP.TrustedProxies, plan.HTTP.TrustedProxies)},
		{"broker.websocket: changed", c.new.broker != nil && !reflect.DeepEqual(old.Broker.WebSocket, plan.Broker.WebSocket)},
	} {
		if part.changed {
			c.say("%s", part.what)
		}
	}
	return nil
}

// adjust sets what cannot fail.
func (c *change) adjust(to *running) {
	plan := to.plan
	c.logs.set(plan.Log)
	c.tapLog(plan.Log.Publish)
	if c.setLog != nil {
		c.setLog(plan.Log)
	}
	c.required.Store(to.required())
	c.journal.SetBounds(int64(plan.Journal.MaxSize), plan.Journal.MaxAge, plan.Journal.WhenFull)
	var overWebSocket http.Handler
	var origins []string
	if to.broker != nil {
		origins = plan.Broker.WebSocket.Origins
	}
	c.web.Configure(plan.HTTP, origins)
	if to.broker != nil && plan.Broker.WebSocket.HTTP {
		overWebSocket = to.broker.WebSocket(c.web)
	}
	c.web.Handle(broker.WebSocketPath, overWebSocket)
	commands := to.commands()
	commands.Link = c.ears.earOn(commands.Link, commandsListen)
	if plan.HomeAssistant.Discovery {
		commands.Sources = append(commands.Sources, ownCommands(c.Bridge))
	}
	c.commands.Configure(commands)
	c.devices.allow(plan.allowedCommands())
}

// finish ends what has been replaced. The next change waits for that, but not
// for HTTP clients to go: one of them may be waiting for a reload.
func (c *change) finish() {
	for _, f := range c.ending {
		c.replaced.Go(f)
	}
}
