package bridge

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"reflect"
	"slices"
	"strings"

	"event2mqtt/internal/broker/bundled"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/trace"
)

// This file is which parts a plan asks for, and how each is made. Components
// keep nothing of the change that makes them, or it would keep the one before
// alive, and so on.

// wanted are all parts of the new plan, in the order in which they are started.
func (c *change) wanted() (all []wanted, err error) {
	plan := c.new.plan
	for i, options := range plan.sinks {
		w, err := c.wantedSink(i, options)
		if err != nil {
			return nil, err
		}
		all = append(all, w)
	}
	for i, options := range plan.sources {
		all = append(all, c.wantedSource(i, options))
	}
	return append(all, c.wantedHTTP()), nil
}

func (c *change) wantedHTTP() wanted {
	address := c.new.plan.HTTP.Listen // the rest changes in place
	w := wanted{title: "http", spec: address}
	w.build = func(*component) (*component, error) {
		l, err := c.sockets.Listen("http.listen", httpAt(address))
		if err != nil {
			return nil, err
		}
		c.undo(func() { _ = l.Close() })
		c.say("http: listens on %s", l.Addr())
		return c.httpComponent(address, l), nil
	}
	return w
}

func (b *Bridge) httpComponent(address string, l net.Listener) *component {
	return &component{last: true, run: func(ctx context.Context, ready func()) error {
		serving := l
		l = nil
		if serving == nil { // it failed before
			var err error
			if serving, err = b.sockets.Listen("http.listen", httpAt(address)); err != nil {
				return err
			}
		}
		ready() // connections wait in the socket
		return b.web.Serve(ctx, b.idleHTTP, b.openRequests, serving)
	}}
}

// sinkSpec is all that asks for another sink.
type sinkSpec struct {
	options  any
	broker   *bundled.Broker // of the main sink
	required bool
	match    string
	whenFull journal.FullPolicy
}

// wantedSink is the sink with the number i, of which 0 is the main one.
func (c *change) wantedSink(i int, options sinks.Options) (wanted, error) {
	base := *options.Base()
	deps := sinks.Deps{ID: c.journal.ID, StateDir: c.stateDir, Refused: c.refused, Log: c.logs.part(base.Type)}
	var err error
	if deps.ClientID, err = clientID(c.stateDir); err != nil {
		return wanted{}, err
	}
	path, to := "", c.new.plan.destination()
	spec := sinkSpec{options.Fingerprint(), nil, base.Required, strings.Join(base.Match, "\n"), base.WhenFull}
	if i == 0 {
		if c.new.broker != nil {
			deps.Broker, spec.broker = c.new.broker, c.new.broker
		}
	} else {
		path = fmt.Sprintf("sinks[%d]", i-1)
		deps.ClientID += "-" + base.Name // two at one broker would end each other's connections
		deps.Log = deps.Log.With().Str("sink", base.Name).Logger()
	}
	w := wanted{title: "sink " + base.Name, name: base.Name, spec: spec, added: "added", changed: "changed"}
	before := c.old.options(base.Name)
	keys := "" // that have changed, if the sink can tell
	if d, ok := options.(differ); ok && before != nil {
		keys = strings.Join(d.Changed(before), ", ")
		w.changed = cmp.Or(keys, "the files that it reads") + " changed"
	}
	if i == 0 {
		w.added = "publishes to " + to
		if before != nil && c.old.plan.destination() != to {
			w.changed = w.added
		}
	}
	w.build = func(old *component) (*component, error) {
		told, deps := c.watchSink(base, deps)
		sink, err := options.Build(deps)
		if err != nil {
			return nil, c.new.plan.explain(path, err)
		}
		told.Ask(sink)
		cursor, place, err := c.cursorOf(base, old)
		if err != nil {
			return nil, err
		}
		part := c.sinkComponent(sink, options, told, cursor)
		part.place = place
		return part, nil
	}
	w.adjust = func(part *component) (string, func(), error) {
		adjuster, ok := part.part.(sinks.Adjuster)
		if !ok || reflect.DeepEqual(before, options) {
			return "", nil, nil
		}
		if err := adjuster.Adjust(options); err != nil {
			return "", nil, c.new.plan.explain(path, err)
		}
		if _, tells := options.(differ); tells && keys == "" {
			return "", nil, nil // it is written elsewhere, and told so
		}
		return cmp.Or(keys, w.title) + ": changed", func() { _ = adjuster.Adjust(before) }, nil
	}
	return w, nil
}

// options are those of a sink that the running plan has, or nil.
func (r *running) options(name string) sinks.Options {
	if r.plan == nil {
		return nil
	}
	for _, o := range r.plan.sinks {
		if o.Base().Name == name {
			return o
		}
	}
	return nil
}

// watchSink returns what tells the trace of a sink's deliveries, and has the
// sink tell it what it skips.
func (b *Bridge) watchSink(base sinks.Common, deps sinks.Deps) (*trace.Deliveries, sinks.Deps) {
	told := trace.NewDeliveries(b.trace, trace.DeliveriesOptions{Sink: base.Name, Keeper: deps.Refused, ID: deps.ID})
	deps.Refused = told
	return told, deps
}

func (b *Bridge) sinkComponent(sink sinks.Sink, options sinks.Options, told journal.Observer, cursor *journal.Cursor) *component {
	c := &component{part: sink, cursor: cursor, alone: true} // there is one cursor, and one client id
	if options.Base().Name == mainSink {
		c.health.Changed = b.announcer.linkChanged
	}
	wants := options.Base().Wants()
	c.run = func(ctx context.Context, ready func()) error {
		cursor.Filter(wants) // not before: the sink in whose place it comes still reads
		cursor.Observe(told)
		cursor.SetWhenFull(options.Base().WhenFull)
		ready() // a destination that is away is waited for
		return sink.Run(ctx, cursor, b.states, c.health.Tell)
	}
	return c
}

func (c *change) wantedSource(i int, options sources.Options) wanted {
	base := *options.Base()
	title := "source " + base.Name
	w := wanted{title: title, name: base.Name, spec: withoutCommands(options), added: "added", changed: "changed"}
	w.build = func(*component) (*component, error) {
		log := c.logs.part(base.Type).With().Str("source", base.Name).Logger()
		source, err := options.Build(sources.Deps{Mux: c.web, Log: log})
		if err != nil {
			return nil, c.new.plan.explain(fmt.Sprintf("sources[%d]", i), err)
		}
		return c.sourceComponent(title, base.Name, source, options.Exclusive()), nil
	}
	before := c.old.commandsOf(base.Name)
	w.adjust = func(*component) (string, func(), error) {
		if slices.Equal(before, allowedBy(options)) {
			return "", nil, nil
		}
		return title + ": commands changed", func() {}, nil // adjust has them taken
	}
	return w
}

func (b *Bridge) sourceComponent(title, name string, source sources.Source, alone bool) *component {
	c := &component{part: source, alone: alone}
	c.health.Changed = func(health.Report) { b.present(c) }
	intake := b.counts.intake(name)
	c.run = func(ctx context.Context, ready func()) error {
		if b.fault != nil {
			if err := b.fault(title); err != nil {
				return err
			}
		}
		return source.Run(ctx, countedOutput{output{b: b, source: name, ready: ready, tell: c.health.Tell}, intake})
	}
	return c
}
