package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"

	"event2mqtt/internal/commands"
	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sources"
)

// This file is which sources take commands.

// commanded are options of a source that takes commands.
type commanded interface {
	// Allowed returns the names of those that are allowed.
	Allowed() []string
}

// allowedBy returns the commands that options allow.
func allowedBy(o sources.Options) []string {
	if c, ok := o.(commanded); ok {
		return c.Allowed()
	}
	return nil
}

func (b *Bridge) newDesk() *commands.Desk {
	return commands.New(commands.Options{
		Log: b.log,
		Emit: func(ctx context.Context, source string, e event.Event) error {
			_, err := output{b: b, source: source}.Emit(ctx, e)
			return err
		},
	})
}

// commands are what the parts that run can be told to do.
func (r *running) commands() commands.Config {
	c := commands.Config{Base: r.plan.Publish.BaseTopic, TimestampField: r.plan.Publish.TimestampField, Millis: r.plan.Publish.TimestampMillis}
	c.Link, _ = r.part("sink " + mainSink).part.(sinks.Talker)
	if r.broker != nil {
		c.Broker = r.broker
	}
	for _, o := range r.plan.sources {
		name := o.Base().Name
		to, _ := r.part("source " + name).part.(sources.Commander)
		c.Sources = append(c.Sources, commands.Source{Name: name, To: to, Allowed: allowedBy(o)})
	}
	return c
}

// commandsOf are those that the running plan allows a source.
func (r *running) commandsOf(source string) []string {
	if r.plan == nil {
		return nil
	}
	for _, o := range r.plan.sources {
		if o.Base().Name == source {
			return allowedBy(o)
		}
	}
	return nil
}

// allowedCommands are those that a plan allows, by source.
func (p *Plan) allowedCommands() map[string][]string {
	all := map[string][]string{}
	for _, o := range p.sources {
		if names := allowedBy(o); len(names) > 0 {
			all[o.Base().Name] = names
		}
	}
	return all
}

// checkCommands tells of sources that would get each other's commands.
func (p *Plan) checkCommands(note func(path string, err error)) {
	taken := map[string]string{}
	for _, o := range p.sources {
		name := o.Base().Name
		at := commands.Topic("", name)
		if len(allowedBy(o)) == 0 {
			continue
		}
		if other, ok := taken[at]; ok {
			note("", config.Errorf("sources", "%q and %q have the same topic for commands, {base}%s; rename one of them", other, name, at))
		}
		taken[at] = name
	}
}

// withoutCommands is a copy of options that allows no command: which ones are
// allowed changes in place, so that it asks for no other source.
func withoutCommands(o sources.Options) sources.Options {
	from := reflect.ValueOf(o).Elem()
	to := reflect.New(from.Type())
	to.Elem().Set(from)
	if f := to.Elem().FieldByName("Commands"); f.IsValid() && f.Type() == reflect.TypeFor[sources.Commands]() {
		f.SetZero()
	}
	return to.Interface().(sources.Options)
}

// commandReload is the command of the program itself.
const commandReload = "reload"

// selfCommander takes the program's own commands.
type selfCommander struct{ b *Bridge }

var _ sources.Commander = selfCommander{}

// ownCommands are the program's own, for whoever takes commands.
func ownCommands(b *Bridge) commands.Source {
	return commands.Source{Name: event.OwnSource, To: selfCommander{b}, Allowed: []string{commandReload}}
}

// Do implements sources.Commander.
func (s selfCommander) Do(ctx context.Context, _ event.Command) ([]byte, error) {
	o, err := s.b.reloadUnless(ctx, byCommand, config.Sum{})
	if err != nil {
		return nil, err
	}
	if !o.OK {
		return nil, errors.New("the new configuration is not used: " + strings.Join(o.Problems, "; "))
	}
	return json.Marshal(o)
}
