package bridge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// printerOptions are those of a source that tests can tell what to do.
type printerOptions struct {
	sources.Common   `koanf:",squash"`
	sources.Commands `koanf:",squash"`
	Port             int `koanf:"port" default:"80" min:"1" max:"65535" doc:"Asks for another source."`
	printers         *printers
}

func (*printerOptions) Check() error    { return nil }
func (*printerOptions) Exclusive() bool { return false }
func (o *printerOptions) Build(sources.Deps) (sources.Source, error) {
	return &printer{all: o.printers}, nil
}

// printers keep what all of them have done.
type printers struct {
	mu      sync.Mutex
	done    []string
	release chan struct{} // the command wait waits for it
}

func (p *printers) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.done...)
}

// types are the built-in ones, and printer.
func (p *printers) types() Types {
	t := BuiltIn()
	t.Sources = append(t.Sources, sources.Type{Name: "printer", Options: func() sources.Options { return &printerOptions{printers: p} }})
	return t
}

type printer struct{ all *printers }

func (p *printer) Run(ctx context.Context, out sources.Output) error {
	out.Ready()
	<-ctx.Done()
	return nil
}

func (p *printer) Do(ctx context.Context, c event.Command) ([]byte, error) {
	p.all.mu.Lock()
	p.all.done = append(p.all.done, c.Source+" "+c.Name)
	p.all.mu.Unlock()
	if c.Name == "hang" {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if c.Name == "wait" {
		select {
		case <-p.all.release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return []byte(`"done"`), nil
}

const withPrinter = plain + "  - {name: octo, type: printer, commands: [pause, hang]}\n"

// yard is a rig with printers, and somebody who gives them commands.
type yard struct {
	*rig
	*printers
	phone, listener *mqttest.Client
}

func newYard(t *testing.T, yaml string, fault ...func(part string) error) *yard {
	y := &yard{printers: &printers{release: make(chan struct{})}}
	y.rig = newRigOf(t, y.types(), yaml, t.TempDir(), fault...)
	for id, c := range map[string]**mqttest.Client{"phone": &y.phone, "listener": &y.listener} {
		var err error
		if *c, err = mqttest.Dial(y.rig.mqtt, mqttest.Options{ID: id}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*c).Close() })
		_ = (*c).SetDeadline(time.Now().Add(mqttest.Patience))
	}
	for _, filter := range []string{"+/event/#", "+/+/result"} {
		if _, err := y.listener.Subscribe(filter, 0); err != nil {
			t.Fatal(err)
		}
	}
	y.awaitSubscriptions(2 + strings.Count(yaml, "commands: ["))
	return y
}

func (y *yard) tell(topic string, change ...func(*wire.Publish)) {
	y.t.Helper()
	p := wire.Publish{Topic: topic, QoS: 1}
	for _, f := range change {
		f(&p)
	}
	if err := y.phone.Publish(p); err != nil {
		y.t.Fatal(err)
	}
}

// expect reads messages until one is to a topic, and checks what is in it.
func (y *yard) expect(topic string, contains ...string) {
	y.t.Helper()
	payload := y.next(topic)
	for _, text := range contains {
		if !strings.Contains(payload, text) {
			y.t.Fatalf("%s %s lacks %s", topic, payload, text)
		}
	}
}

// got reads messages until one is to a topic, and reports whether all is in it.
func (y *yard) got(topic string, contains ...string) bool {
	y.t.Helper()
	payload := y.next(topic)
	return !slices.ContainsFunc(contains, func(text string) bool { return !strings.Contains(payload, text) })
}

// next reads messages until one is to a topic.
func (y *yard) next(topic string) (payload string) {
	y.t.Helper()
	for {
		m, err := y.listener.Next()
		if err != nil {
			y.t.Fatalf("%s: %v", topic, err)
		}
		if m.Topic == topic {
			return string(m.Payload)
		}
	}
}

// TestACommandIsAnsweredAndAnEvent on its way through the whole program, with
// rules; what is retained or not allowed is not done.
func TestACommandIsAnsweredAndAnEvent(t *testing.T) {
	y := newYard(t, withPrinter+"rules:\n  - {match: Command, add: {by: rule}}\n")
	retain := func(p *wire.Publish) { p.Retain, p.Payload = true, []byte("x") }
	y.tell("event2mqtt/octo/set/stop")
	y.expect("event2mqtt/octo/result", `"command":"stop","ok":false`)
	y.tell("event2mqtt/octo/set/pause", retain)
	y.tell("event2mqtt/hooks/set/pause")
	y.tell("event2mqtt/octo/set/pause/now")
	y.tell("event2mqtt/octo/set/pause", func(p *wire.Publish) { p.Payload = []byte(`{"id":"7"}`) })
	const who = `"who":{"client":"phone"}`
	y.expect("event2mqtt/octo/result", `"command":"pause","id":"7","ok":true,"reply":"done"`, who, `"_timestamp":`)
	y.expect("event2mqtt/event/Command", `"_event":"Command"`, `"command":"pause"`, who, `"payload":{"id":"7"}`, `"by":"rule"`)
	if done := y.list(); fmt.Sprint(done) != "[octo pause]" {
		t.Errorf("done %q", done)
	}
}

// TestAnOwnMessageIsNoCommand: the event of a command that a rule sends back as
// a command would cause itself for ever. It is skipped, and kept with those
// that were refused.
func TestAnOwnMessageIsNoCommand(t *testing.T) {
	y := newYard(t, withPrinter+"rules:\n  - {match: Command, topic: event2mqtt/octo/set/pause}\n")
	y.tell("event2mqtt/octo/set/pause")
	y.expect("event2mqtt/octo/result")
	testkit.Eventually(t, "the event is kept", func() bool { all, _ := y.refused.List(); return len(all) == 1 })
	if done := y.list(); len(done) != 1 {
		t.Errorf("done %q", done)
	}
}

// TestAccountsSayWhoMayGiveCommands: those of docs/commands.md.
func TestAccountsSayWhoMayGiveCommands(t *testing.T) {
	p := &printers{}
	h := newRigOf(t, p.types(), strings.Replace(withPrinter, "MQTT}", `MQTT, users: [
    {name: hand, password: hand, allow: ["event2mqtt/octo/set/#:w", "event2mqtt/octo/result:r"]},
    {name: eyes, password: eyes, allow: ["event2mqtt/#:r"]},
    {name: home, password: home, allow: ["#:rw", "event2mqtt/+/set/#:deny"]}]}`, 1), t.TempDir())
	dial := func(name string) *mqttest.Client {
		c, err := mqttest.Dial(h.mqtt, mqttest.Options{ID: name, User: name, Password: name})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
		return c
	}
	y := &yard{rig: h, printers: p, listener: dial("eyes")}
	if _, err := y.listener.Subscribe("event2mqtt/octo/result", 0); err != nil {
		t.Fatal(err)
	}
	y.awaitSubscriptions(2)
	for _, name := range []string{"home", "hand"} {
		y.phone = dial(name)
		y.tell("event2mqtt/octo/set/pause")
	}
	y.expect("event2mqtt/octo/result", `"who":{"user":"hand","client":"hand"}`)
	if done := p.list(); len(done) != 1 {
		t.Errorf("done %q", done)
	}
}

// TestOtherCommandsDoNotRestartTheSource, and nor does the last one that goes.
func TestOtherCommandsDoNotRestartTheSource(t *testing.T) {
	y := newYard(t, strings.Replace(withPrinter, ", commands: [pause, hang]", "", 1))
	before := y.since()
	for _, allowed := range []string{"pause", "resume", "pause, resume", ""} {
		o := y.reload(strings.Replace(withPrinter, "pause, hang", allowed, 1))
		if !o.OK || fmt.Sprint(o.Changed) != "[source octo: commands changed]" {
			t.Fatalf("%s: %+v", allowed, o)
		}
		if after := y.since(); !after["source octo"].Equal(before["source octo"]) || !after["sink mqtt"].Equal(before["sink mqtt"]) {
			t.Errorf("%s: restarted", allowed)
		}
		if !strings.Contains(allowed, "resume") {
			continue
		}
		y.awaitSubscriptions(3)
		y.tell("event2mqtt/octo/set/resume")
		y.expect("event2mqtt/octo/result", `"ok":true`)
	}
	y.awaitSubscriptions(2)
}

// ownSubscriptions are those of the program itself: its own commands, those that
// no source takes, and what is heard of Home Assistant and of other installations.
const ownSubscriptions = 4

// awaitSubscriptions waits for the sink: two are those of the test.
func (y *yard) awaitSubscriptions(n int) {
	y.t.Helper()
	n += ownSubscriptions
	y.Bridge.mu.RLock()
	b := y.now.broker
	y.Bridge.mu.RUnlock()
	testkit.Eventually(y.t, fmt.Sprintf("%d subscriptions", n), func() bool { return b.Stats().Subscriptions == n })
}

// TestCommandsFollowTheBaseTopic that a reload changes.
func TestCommandsFollowTheBaseTopic(t *testing.T) {
	y := newYard(t, withPrinter)
	y.tell("event2mqtt/octo/set/pause")
	y.expect("event2mqtt/octo/result")
	if o := y.reload(withPrinter + "publish: {base_topic: home}\n"); !o.OK {
		t.Fatalf("%+v", o)
	}
	testkit.Eventually(t, "what is not allowed is ignored there", func() bool { // the new connection asks for nothing before
		y.tell("home/octo/set/nonsense")
		return strings.Contains(y.log.String(), `"nonsense"`)
	})
	y.awaitSubscriptions(3)
	y.tell("event2mqtt/octo/set/pause")
	y.tell("home/octo/set/pause")
	for !y.got("home/octo/result", `"command":"pause"`, `"ok":true`) { // but the answers to nonsense
	}
	if done := y.list(); len(done) != 2 {
		t.Errorf("done %q", done)
	}
}

// TestAReloadCancelsTheCommandsOfWhatItEnds: a source that is removed, and one
// that another takes the place of.
func TestAReloadCancelsTheCommandsOfWhatItEnds(t *testing.T) {
	y := newYard(t, withPrinter)
	for i, yaml := range []string{strings.Replace(withPrinter, "printer,", "printer, port: 81,", 1), plain} {
		y.tell("event2mqtt/octo/set/hang")
		testkit.Eventually(t, "it hangs", func() bool { return len(y.list()) == i+1 })
		if o := y.reload(yaml); !o.OK {
			t.Fatalf("%+v", o)
		}
		y.expect("event2mqtt/octo/result", "is being stopped")
		y.expect("event2mqtt/event/Command", "is being stopped")
		if i == 0 {
			y.awaitSubscriptions(3)
		}
	}
	y.awaitSubscriptions(2)
}

// TestACommandGoesOnWhenAReloadAllowsNone: it did nothing wrong, and its answer
// tells how it went.
func TestACommandGoesOnWhenAReloadAllowsNone(t *testing.T) {
	y := newYard(t, withPrinter)
	y.tell("event2mqtt/octo/set/wait")
	testkit.Eventually(t, "not allowed is told", func() bool { return strings.Contains(y.log.String(), "does not allow it") })
	y.expect("event2mqtt/octo/result", `"command":"wait","ok":false,"error":"the source's option commands does not allow it"`)
	if o := y.reload(strings.Replace(withPrinter, "pause, hang", "wait", 1)); !o.OK {
		t.Fatalf("%+v", o)
	}
	y.tell("event2mqtt/octo/set/wait")
	testkit.Eventually(t, "it is being done", func() bool { return len(y.list()) == 1 })
	if o := y.reload(strings.Replace(withPrinter, ", commands: [pause, hang]", "", 1)); !o.OK {
		t.Fatalf("%+v", o)
	}
	close(y.release)
	y.expect("event2mqtt/octo/result", `"command":"wait","ok":true`)
	for topic, says := range map[string]string{"octo": "allows none", "hooks": "takes no commands", "nobody": "no source of this name"} {
		y.tell("event2mqtt/" + topic + "/set/wait")
		if topic != "nobody" {
			y.expect("event2mqtt/"+topic+"/result", says)
		}
		testkit.Eventually(t, topic+" is told of", func() bool { return strings.Contains(y.log.String(), says) })
	}
}

// TestAReloadThatFailsLeavesCommandsAsTheyWere.
func TestAReloadThatFailsLeavesCommandsAsTheyWere(t *testing.T) {
	y := newYard(t, withPrinter, func(part string) error {
		if part == "source bad" {
			return errors.New("injected")
		}
		return nil
	})
	if o := y.reload(strings.Replace(withPrinter, "pause, hang", "resume", 1) + "  - {name: bad, type: webhook}\n"); o.OK {
		t.Fatalf("%+v", o)
	}
	y.tell("event2mqtt/octo/set/resume")
	y.expect("event2mqtt/octo/result", `"command":"resume","ok":false`)
	y.tell("event2mqtt/octo/set/pause")
	y.expect("event2mqtt/octo/result", `"command":"pause","ok":true`)
}

// TestCommandsAreCheckedWithTheConfiguration.
func TestCommandsAreCheckedWithTheConfiguration(t *testing.T) {
	for yaml, want := range map[string]string{
		"sources:\n  - {name: octo, type: printer, commands: [pause, a/b]}\n":                                              "sources[0].commands[1]",
		"sources:\n  - {name: a b, type: printer, commands: [pause]}\n  - {name: a_b, type: printer, commands: [pause]}\n": "same topic for commands",
		"sources:\n  - {name: octo, type: webhook, commands: [pause]}\n":                                                   "commands",
	} {
		file := t.TempDir() + "/config.yaml"
		h := &rig{t: t, file: file}
		h.write(yaml)
		_, err := (&printers{}).types().Load(file, nil, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", yaml, err, want)
		}
	}
}
