package bridge

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"reflect"
	"slices"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/config"
	"event2mqtt/internal/sinks/mqtt"
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
	plan    *Plan
	since   time.Time
	http    *component
	broker  *bundledBroker // nil with an external one
	sink    *component
	mqtt    *mqtt.Sink   // that sink runs
	sources []*component // in the plan's order
}

// change is one configuration taking the place of another.
type change struct {
	*Bridge
	old, new *running
	undoing  []func()
	ending   []func()
	report   []string // what is different, for people

	listeners listenerChange
}

// apply makes the bridge run what a plan says, and returns what has changed.
// On error everything is as before. One goroutine calls it.
func (b *Bridge) apply(plan *Plan) (report []string, err error) {
	b.endings.Wait() // nothing is opened again before it is closed
	c := &change{Bridge: b, old: b.now, new: &running{plan: plan, since: time.Now()}}
	for _, step := range []func() error{c.check, c.build, c.swap} {
		if err := step(); err != nil {
			for _, undo := range slices.Backward(c.undoing) {
				undo()
			}
			return nil, err
		}
	}
	b.mu.Lock()
	b.now = c.new
	b.mu.Unlock()
	c.finish()
	return c.report, nil
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
	for _, part := range []func() error{c.buildHTTP, c.buildBroker, c.buildSink, c.buildSources} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

func (c *change) buildHTTP() error {
	spec := c.new.plan.HTTP.Listen // the rest changes in place
	if c.old.http != nil && c.old.http.spec == any(spec) {
		c.new.http = c.old.http
		return nil
	}
	l, err := c.sockets.listen("http.listen", "tcp", spec)
	if err != nil {
		return err
	}
	c.undo(func() { _ = l.Close() })
	c.new.http = c.httpComponent(spec, l)
	c.say("http: listens on %s", l.Addr())
	return nil
}

func (c *change) buildBroker() (err error) {
	plan := c.new.plan
	if len(plan.MQTT.URL) > 0 {
		return nil
	}
	if c.new.broker = c.old.broker; c.new.broker == nil {
		if c.new.broker, err = openBroker(plan, c.stateDir, c.web, c.logs.part("broker")); err != nil {
			return err
		}
		c.undo(c.new.broker.close)
		c.say("bundled broker: started")
	}
	c.listeners = c.new.broker.compare(plan.Broker)
	for _, spec := range c.listeners.missing {
		l, err := c.new.broker.listen(c.sockets, spec)
		if err != nil {
			return err
		}
		c.undo(l.close)
		c.listeners.fresh = append(c.listeners.fresh, l)
	}
	return nil
}

func (c *change) buildSink() (err error) {
	plan := c.new.plan
	type identity struct {
		mqtt.Config
		base  string
		files [3]config.Sum // a certificate may be another in the same file
	}
	options := mqtt.Options{Config: plan.MQTT, Publish: plan.Publish, ID: c.journal.ID, Refused: c.refused, Log: c.logs.part("mqtt")}
	if options.Config.ClientID == "" {
		if options.Config.ClientID, err = clientID(c.stateDir); err != nil {
			return err
		}
	}
	if c.new.broker != nil {
		options.Bundled = c.new.broker
	}
	spec := identity{Config: options.Config, base: plan.Publish.BaseTopic}
	for i, file := range []string{plan.MQTT.TLS.CA, plan.MQTT.TLS.Cert, plan.MQTT.TLS.Key} {
		spec.files[i], _ = config.SumOf(file) // what cannot be read was told by check
	}
	if c.old.sink != nil && c.old.broker == c.new.broker && reflect.DeepEqual(c.old.sink.spec, spec) {
		c.new.sink, c.new.mqtt = c.old.sink, c.old.mqtt
		return nil
	}
	sink, err := mqtt.New(options)
	if err != nil {
		return plan.explain("", err)
	}
	c.new.mqtt = sink
	c.new.sink = c.sinkComponent(spec, sink)
	c.say("sink %s: publishes to %s", mainSink, plan.destination())
	return nil
}

func (c *change) buildSources() error {
	for i, options := range c.new.plan.sources {
		common := options.common()
		title := "source " + common.Name
		old := c.old.source(common.Name)
		if old != nil && reflect.DeepEqual(old.spec, options) {
			c.new.sources = append(c.new.sources, old)
			continue
		}
		source, err := options.build(deps{c.web, c.logs.part(common.Type).With().Str("source", common.Name).Logger()})
		if err != nil {
			return c.new.plan.explain(fmt.Sprintf("sources[%d]", i), err)
		}
		c.new.sources = append(c.new.sources, c.sourceComponent(options, source))
		if old == nil {
			c.say("%s: added", title)
		} else {
			c.say("%s: changed", title)
		}
	}
	return nil
}

// Components are made by methods of Bridge: what they keep of the change that
// made them would keep the one before alive, and so on.

func (b *Bridge) httpComponent(address string, l net.Listener) *component {
	return &component{
		title: "http", spec: address, log: b.log,
		run: func(ctx context.Context, ready func()) error {
			serving := l
			l = nil
			if serving == nil { // it failed before
				var err error
				if serving, err = b.sockets.listen("http.listen", "tcp", address); err != nil {
					return err
				}
			}
			ready() // connections wait in the socket
			return b.web.Serve(ctx, b.linger, b.patience, serving)
		},
	}
}

func (b *Bridge) sinkComponent(spec any, sink *mqtt.Sink) *component {
	return &component{
		title: "sink " + mainSink, spec: spec, log: b.log, alone: true, // there is one cursor, and one client id
		run: func(ctx context.Context, ready func()) error {
			ready() // a broker that is away is waited for
			return sink.Run(ctx, b.cursor, b.states)
		},
	}
}

func (b *Bridge) sourceComponent(options sourceOptions, source sources.Source) *component {
	name := options.common().Name
	title := "source " + name
	var watch func() (bool, string)
	if w, ok := source.(interface {
		Health() (ok bool, detail string)
	}); ok {
		watch = w.Health
	}
	return &component{
		title: title, spec: options, part: source, alone: options.alone(), log: b.log, watch: watch,
		run: func(ctx context.Context, ready func()) error {
			if b.fault != nil {
				if err := b.fault(title); err != nil {
					return err
				}
			}
			return source.Run(ctx, output{b, name, ready})
		},
	}
}

// source returns the component of a source, or nil.
func (r *running) source(name string) *component {
	for _, s := range r.sources {
		if sourceName(s) == name {
			return s
		}
	}
	return nil
}

func sourceName(c *component) string { return c.spec.(sourceOptions).common().Name }

// swap lets what is new take over. The broker comes before the sink, since the
// sink may publish to it, and what is listened on for events comes last.
func (c *change) swap() error {
	if c.starting() { // events must find how they are shaped
		if err := c.swapInPlace(); err != nil {
			return err
		}
	}
	c.swapListeners()
	started := []*component{c.replace(c.old.sink, c.new.sink)}
	for _, s := range c.new.sources {
		started = append(started, c.replace(c.old.source(sourceName(s)), s))
	}
	if err := c.await(started); err != nil {
		return err
	}
	// Last, so that whoever gets a connection finds its source.
	if c.new.http != c.old.http {
		c.new.http.start()
		c.undo(func() { c.new.http.cancel(); c.background.Go(c.new.http.stop) }) // before its listener is closed
		if err := c.await([]*component{c.new.http}); err != nil {
			return err
		}
	}
	for _, s := range c.old.sources {
		if name := sourceName(s); c.new.source(name) == nil {
			c.say("source %s: removed", name)
			c.end(s.stop)
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
		if component == nil {
			continue
		}
		if err := component.begun(ctx); err != nil && !c.starting() {
			return err
		}
	}
	return nil
}

// replace starts a component in the place of another, which may be nil, and
// returns it; or nil if it runs already.
func (c *change) replace(old, fresh *component) *component {
	if old == fresh {
		return nil
	}
	if old != nil {
		if old.alone || fresh.alone {
			old.stop()
			c.undo(old.start)
		} else {
			c.end(old.stop)
		}
	}
	fresh.start()
	c.undo(fresh.stop)
	return fresh
}

func (c *change) swapListeners() {
	b := c.new.broker
	if c.old.broker != nil && b == nil {
		c.say("bundled broker: ended")
		c.end(c.old.broker.close)
	}
	if b == nil {
		return
	}
	before := b.listeners
	c.undo(func() { b.listeners = before })
	b.listeners = slices.Concat(c.listeners.kept, c.listeners.fresh)
	for _, l := range c.listeners.fresh {
		b.serve(l)
		c.say("bundled broker: listens on %s", l)
	}
	for _, l := range c.listeners.surplus {
		c.say("bundled broker: listens no more on %s", l)
		c.end(l.close)
	}
}

func (c *change) swapAccounts() error {
	b, old, plan := c.new.broker, c.old.plan, c.new.plan
	if b == nil || b != c.old.broker || reflect.DeepEqual(old.Broker.live(), plan.Broker.live()) {
		return nil
	}
	c.undo(func() { _ = b.configure(old.Broker) })
	if err := b.configure(plan.Broker); err != nil {
		return plan.explain("broker", err)
	}
	c.say("bundled broker: accounts and limits changed")
	return nil
}

// swapInPlace changes what running parts look at each time they use it.
func (c *change) swapInPlace() error {
	old, plan := c.old.plan, c.new.plan
	if c.new.mqtt == c.old.mqtt && old.Publish != plan.Publish {
		if err := c.new.mqtt.SetPublish(plan.Publish); err != nil {
			return plan.explain("", err)
		}
		c.undo(func() { _ = c.new.mqtt.SetPublish(old.Publish) })
		c.say("publish: changed")
	}
	c.adjust(c.new)
	before, shape := c.shape.Load(), c.newShape(plan)
	c.shape.Store(shape)
	if c.starting() {
		c.restoreHeld() // before anything newer comes
		c.restoreNames(plan)
		return nil
	}
	c.undo(func() { c.adjust(c.old); c.shape.Store(before) })
	c.end(func() { c.keepNames(plan) })
	c.end(func() { // what rules hold that are no more is sent
		shape.rules.Adopt(before.rules)
		c.wakeHeld()
	})
	for _, part := range []struct {
		what    string
		changed bool
	}{
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
	if c.setLog != nil {
		c.setLog(plan.Log)
	}
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
}

// finish ends what has been replaced. The next change waits for that, but not
// for HTTP clients to go: one of them may be waiting for a reload.
func (c *change) finish() {
	if c.old.http != nil && c.old.http != c.new.http {
		c.background.Go(c.old.http.stop)
	}
	for _, f := range c.ending {
		c.endings.Go(f)
	}
}
