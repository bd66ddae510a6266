package commands_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/commands"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/testkit"
)

// rig is a desk between a link and a source, both of this test.
type rig struct {
	*commands.Desk
	mu      sync.Mutex
	use     func(sinks.Incoming)
	filters []string
	answers []string // topic and payload
	events  []string // source, name and payload
	done    []string // names of commands, from whom and their payloads
	full    int      // so often there is no room for an event
	log     bytes.Buffer
	config  commands.Config
	release chan struct{} // commands named slow wait for it
}

func newRig(t *testing.T, allowed ...string) *rig {
	r := &rig{release: make(chan struct{})}
	r.Desk = commands.New(commands.Options{Emit: r.emit, Timeout: 200 * time.Millisecond, Log: zerolog.New(lockedWriter{r})})
	t.Cleanup(r.Close)
	r.config = commands.Config{Link: r, Base: "base/x", TimestampField: "at", Sources: []commands.Source{{Name: "octo", To: r, Allowed: allowed}}}
	r.Configure(r.config)
	return r
}

type lockedWriter struct{ r *rig }

func (w lockedWriter) Write(p []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	return w.r.log.Write(p)
}

func (r *rig) Hear(filters []string, use func(sinks.Incoming)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.filters, r.use = filters, use
}

func (r *rig) Say(_ context.Context, topic string, payload []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = append(r.answers, topic+" "+string(payload))
	return nil
}

func (r *rig) emit(_ context.Context, source string, e event.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full > 0 {
		r.full--
		return sources.ErrFull
	}
	e.Source = source
	if err := (event.Normaliser{}).Normalise(&e); err != nil {
		return err
	}
	r.events = append(r.events, source+" "+e.Name+" "+string(event.Without(e.Payload, "_event", "_timestamp")))
	return nil
}

func (r *rig) Do(ctx context.Context, c event.Command) ([]byte, error) {
	r.mu.Lock()
	r.done = append(r.done, fmt.Sprintf("%s %s %s %s", c.Source, c.Name, c.From, c.Payload))
	r.mu.Unlock()
	switch c.Name {
	case "fail":
		return nil, errors.New("the printer is <off>")
	case "hang":
		<-ctx.Done()
		return nil, ctx.Err()
	case "stubborn":
		<-r.release
	case "slow":
		select {
		case <-r.release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case "panic":
		panic("a bug")
	case "text":
		return []byte("no \"JSON\""), nil
	case "large":
		return make([]byte, 1<<20), nil
	}
	return []byte(`{"state": "ok"}`), nil
}

func (r *rig) take(name, payload string, change ...func(*sinks.Incoming)) {
	in := sinks.Incoming{Topic: "base/x/octo/set/" + name, Payload: []byte(payload), Received: time.Now()}
	for _, f := range change {
		f(&in)
	}
	r.mu.Lock()
	use := r.use
	r.mu.Unlock()
	use(in)
}

// lists returns copies of what was done, answered and stored.
func (r *rig) lists() (done, answers, events []string, log string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.done...), append([]string(nil), r.answers...), append([]string(nil), r.events...), r.log.String()
}

func (r *rig) await(t *testing.T, events int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d events", events), func() bool { _, _, e, _ := r.lists(); return len(e) >= events })
}

// TestACommandIsDoneAnsweredAndAnEvent, whatever comes of it.
func TestACommandIsDoneAnsweredAndAnEvent(t *testing.T) {
	for _, c := range []struct{ name, payload, answer, event string }{
		{"pause", `{"id": "a1", "n": 1}`, `"id":"a1","ok":true,"reply":{"state":"ok"}`, `"id":"a1","ok":true,"payload":{"id":"a1","n":1}`},
		{"pause", ``, `"ok":true,"reply":{"state":"ok"}`, `"ok":true`},
		{"pause", `M117 <b>`, `"ok":true,"reply":{"state":"ok"}`, `"ok":true,"payload":"M117 <b>"`},
		{"pause", `{"id": 7}`, `"id":7,"ok":true,"reply":{"state":"ok"}`, `"id":7,"ok":true,"payload":{"id":7}`},
		{"pause", `{"id": {"no": "id"}}`, `"ok":true,"reply":{"state":"ok"}`, `"ok":true,"payload":{"id":{"no":"id"}}`},
		{"pause", "\xff", `"ok":true,"reply":{"state":"ok"}`, `"ok":true,"payload":"` + "\uFFFD" + `"`},
		{"pause", strings.Repeat("[", 64) + strings.Repeat("]", 64), `"ok":true,"reply":{"state":"ok"}`, `"ok":true`},
		{"text", ``, `"ok":true,"reply":"no \"JSON\""`, `"ok":true`},
		{"large", ``, `"ok":true,"reply":"it was done; the answer has 1048576 bytes, which is too much"`, `"ok":true`},
		{"fail", ``, `"ok":false,"error":"the printer is <off>"`, `"ok":false,"error":"the printer is <off>"`},
		{"hang", ``, `"ok":false,"error":"the source did not answer within 200ms"`, `"ok":false,"error":"the source did not answer within 200ms"`},
		{"panic", ``, `"ok":false,"error":"the program has a bug; its log says more"`, `"ok":false,"error":"the program has a bug; its log says more"`},
	} {
		r := newRig(t, "pause", "fail", "hang", "panic", "text", "large")
		r.take(c.name, c.payload, func(in *sinks.Incoming) { in.User, in.Client = "ann", "phone" })
		r.await(t, 1)
		done, answers, events, _ := r.lists()
		if want := "octo " + c.name + " ann " + c.payload; len(done) != 1 || done[0] != want {
			t.Errorf("done %q, want %q", done, want)
		}
		topic, answer, _ := strings.Cut(answers[0], " ")
		var at struct{ At int64 }
		if err := json.Unmarshal([]byte(answer), &at); err != nil || time.Since(time.Unix(at.At, 0)) > time.Minute {
			t.Errorf("answer %s: %v", answer, err)
		}
		const who = `,"who":{"user":"ann","client":"phone"}}`
		if got, want := string(event.Without([]byte(answer), "at")), `{"command":"`+c.name+`",`+c.answer+who; topic != "base/x/octo/result" || got != want {
			t.Errorf("answered on %s:\n%s\nwant\n%s", topic, got, want)
		}
		if want := `octo Command {"command":"` + c.name + `",` + c.event + who; events[0] != want {
			t.Errorf("event\n%s\nwant\n%s", events[0], want)
		}
	}
}

// TestWhoIsLeftOutWhenItIsNotKnown, as with a broker in the network.
func TestWhoIsLeftOutWhenItIsNotKnown(t *testing.T) {
	r := newRig(t, "pause")
	r.take("pause", "")
	r.await(t, 1)
	if _, answers, events, _ := r.lists(); strings.Contains(answers[0]+events[0], "who") {
		t.Errorf("answer %s, event %s", answers[0], events[0])
	}
}

// TestWhatMustNotBeDoneIsIgnored: it is no event, and the log says why, once for
// each reason. So does an answer, but to what is old or the program's own.
func TestWhatMustNotBeDoneIsIgnored(t *testing.T) {
	old := time.Now().Add(-11 * time.Second)
	for _, c := range []struct {
		name, payload string
		change        func(*sinks.Incoming)
		says          string
		answered      bool
	}{
		{"stop", "", nil, "the source's option commands does not allow it", true},
		{"Pause", "", nil, "the source's option commands does not allow it", true},
		{strings.Repeat("x", 500), "", nil, "the source's option commands does not allow it", true},
		{"pause", "", func(in *sinks.Incoming) { in.Retained = true }, "it is retained", false},
		{"pause", "", func(in *sinks.Incoming) { in.Own = true }, "event2mqtt itself has published it", false},
		{"pause", "", func(in *sinks.Incoming) { in.Received = old }, "it is older than 10s", false},
		{"pause", "", func(in *sinks.Incoming) { in.Received = time.Time{} }, "it is older than 10s", false},
		{"pause", fmt.Sprintf(`{"_timestamp":%d}`, old.Unix()), nil, "it is older than 10s", false},
		{"pause", fmt.Sprintf(`{"timestamp":%d}`, old.UnixMilli()), nil, "it is older than 10s", false},
		{"pause", fmt.Sprintf(`{"timestamp":%q}`, old.Format(time.RFC3339)), nil, "it is older than 10s", false},
		{"pause", fmt.Sprintf(`{"at":%d}`, old.Unix()), nil, "it is older than 10s", false},
		{"pause", `{"_timestamp":4000000000}`, nil, "its time is more than 10s in the future", false},
		{"pause", fmt.Sprintf(`{"timestamp":%d}`, time.Now().Add(time.Minute).UnixMilli()), nil, "its time is more than 10s in the future", false},
		{"pause", strings.Repeat("x", 8<<10+1), nil, "its payload has more than 8192 bytes", true},
	} {
		r := newRig(t, "pause", "resume")
		if c.change == nil {
			c.change = func(*sinks.Incoming) {}
		}
		for range 5 {
			r.take(c.name, c.payload, c.change)
		}
		r.take("resume", fmt.Sprintf(`{"timestamp":%d}`, time.Now().Add(5*time.Second).Unix())) // a clock that is a little ahead
		r.await(t, 1)
		r.Close() // when that returns, all that is answered was
		done, answers, events, log := r.lists()
		if len(done) != 1 || len(events) != 1 {
			t.Errorf("%s %s: done %q, events %q", c.name, c.payload, done, events)
		}
		refusals := 0
		for _, a := range answers {
			if strings.Contains(a, `"ok":false`) && strings.HasPrefix(a, "base/x/octo/result ") && strings.Contains(a, c.says) && len(a) < 400 {
				refusals++
			}
		}
		if len(answers) != refusals+1 || (refusals > 0) != c.answered {
			t.Errorf("%s %s: answered %q", c.name, c.payload, answers)
		}
		if strings.Count(log, "ignored") != 1 || !strings.Contains(log, c.says) || len(log) > 400 {
			t.Errorf("%s %s: the log says %s", c.name, c.payload, log)
		}
	}
}

// TestTooManyCommandsAreIgnored: a busy source has one that it does and some
// that wait.
func TestTooManyCommandsAreIgnored(t *testing.T) {
	r := newRig(t, "slow")
	for i := range 100 {
		r.take("slow", fmt.Sprint(i))
	}
	if _, _, _, log := r.lists(); !strings.Contains(log, "wait for this source already") {
		t.Errorf("the log says %s", log)
	}
	close(r.release)
	r.await(t, 16)
	r.Close()
	if done, _, _, _ := r.lists(); len(done) > 17 {
		t.Errorf("%d were done", len(done))
	}
}

// TestOneIsDoneAtATime, also when one does not end when it should; it is
// answered in time all the same.
func TestOneIsDoneAtATime(t *testing.T) {
	r := newRig(t, "stubborn", "pause")
	r.take("stubborn", "")
	r.take("pause", "")
	r.await(t, 1)
	if done, _, events, _ := r.lists(); len(done) != 1 || !strings.Contains(events[0], "did not answer") {
		t.Errorf("done %q, events %q", done, events)
	}
	close(r.release)
	r.await(t, 2)
}

// TestASourceThatDoesNotGiveUpIsLeft, which the log says once, when it is removed
// and when the program ends: Close returns.
func TestASourceThatDoesNotGiveUpIsLeft(t *testing.T) {
	for _, remove := range []bool{false, true} {
		r := newRig(t)
		r.Desk.Close()
		r.Desk = commands.New(commands.Options{Emit: r.emit, Timeout: time.Hour, Grace: 50 * time.Millisecond, Log: zerolog.New(lockedWriter{r})})
		r.config.Sources[0].Allowed = []string{"stubborn", "pause"}
		r.Configure(r.config)
		r.take("stubborn", "")
		testkit.Eventually(t, "it is being done", func() bool { done, _, _, _ := r.lists(); return len(done) == 1 })
		r.take("pause", `{"id":1}`)
		if remove {
			r.config.Sources = nil
			r.Configure(r.config)
		}
		closed := make(chan struct{})
		go func() { defer close(closed); r.Close() }()
		select {
		case <-closed:
		case <-time.After(30 * time.Second):
			t.Fatal("Close waits for a source that does not give up")
		}
		done, answers, events, log := r.lists()
		if len(done) != 1 || len(events) != 1 || !strings.Contains(events[0], "being stopped") || strings.Count(log, "did not give up its command within 50ms") != 1 {
			t.Errorf("done %q, answered %q, events %q, the log says %s", done, answers, events, log)
		}
		close(r.release)
	}
}

// TestACommandThatWaitedTooLongIsAnswered, and not done as a surprise.
func TestACommandThatWaitedTooLongIsAnswered(t *testing.T) {
	var r *rig
	var received time.Time
	for log := "?"; log != ""; _, _, _, log = r.lists() { // again if it was too old at once, on a slow machine
		if r != nil {
			close(r.release)
		}
		r = newRig(t, "stubborn", "pause")
		r.take("stubborn", "")
		received = time.Now().Add(300*time.Millisecond - commands.MaxAge)
		r.take("pause", "", func(in *sinks.Incoming) { in.Received = received })
	}
	testkit.Eventually(t, "it is too old", func() bool { return time.Since(received) > commands.MaxAge })
	close(r.release)
	testkit.Eventually(t, "it is answered", func() bool {
		_, answers, _, _ := r.lists()
		return len(answers) == 2 && strings.Contains(answers[1], "it is older than 10s, since the source was busy with others")
	})
	if done, _, _, _ := r.lists(); len(done) != 1 {
		t.Errorf("done %q", done)
	}
}

// TestOtherCommandsAreAllowedInPlace: what is being done goes on, and what
// waits is looked at again.
func TestOtherCommandsAreAllowedInPlace(t *testing.T) {
	r := newRig(t, "stubborn", "pause")
	r.take("stubborn", "")
	testkit.Eventually(t, "it is being done", func() bool { done, _, _, _ := r.lists(); return len(done) == 1 })
	r.take("pause", "")
	r.config.Sources[0].Allowed = []string{"resume"}
	r.Configure(r.config)
	close(r.release)
	r.take("resume", "")
	r.await(t, 2)
	if done, _, _, _ := r.lists(); len(done) != 2 || !strings.Contains(done[1], "resume") {
		t.Errorf("done %q", done)
	}
}

// TestCommandsOfASourceThatIsGoneAreCancelled, and told of.
func TestCommandsOfASourceThatIsGoneAreCancelled(t *testing.T) {
	r := newRig(t, "hang", "pause")
	r.Desk.Close()
	r.Desk = commands.New(commands.Options{Emit: r.emit, Timeout: time.Hour, Log: zerolog.Nop()})
	t.Cleanup(r.Close)
	r.Configure(r.config)
	r.take("hang", "")
	testkit.Eventually(t, "it is being done", func() bool { done, _, _, _ := r.lists(); return len(done) == 1 })
	r.config.Sources = nil
	r.Configure(r.config)
	r.await(t, 1)
	_, answers, events, _ := r.lists()
	if !strings.Contains(events[0], "being stopped") || !strings.Contains(answers[0], "being stopped") || len(r.filters) > 0 {
		t.Errorf("events %q, answers %q, filters %q", events, answers, r.filters)
	}
}

// TestACommandGoesOnWhenNoneIsAllowedAnyMore: it ends as it would have, and what
// waits behind it is answered.
func TestACommandGoesOnWhenNoneIsAllowedAnyMore(t *testing.T) {
	r := newRig(t, "stubborn", "pause")
	r.Desk.Close()
	r.Desk = commands.New(commands.Options{Emit: r.emit, Timeout: time.Hour, Log: zerolog.New(lockedWriter{r})})
	t.Cleanup(r.Close)
	r.Configure(r.config)
	r.take("stubborn", `{"id": 1}`)
	testkit.Eventually(t, "it is being done", func() bool { done, _, _, _ := r.lists(); return len(done) == 1 })
	r.take("pause", `{"id": 2}`)
	r.config.Sources[0].Allowed = nil
	r.Configure(r.config)
	if len(r.filters) > 0 {
		t.Errorf("filters %q", r.filters)
	}
	close(r.release)
	testkit.Eventually(t, "both are answered", func() bool { _, answers, _, _ := r.lists(); return len(answers) == 2 })
	done, answers, events, _ := r.lists()
	if !strings.Contains(answers[0], `"id":1,"ok":true`) || !strings.Contains(answers[1], `"id":2,"ok":false,"error":"the source's option commands does not allow it"`) {
		t.Errorf("answers %q", answers)
	}
	if len(done) != 1 || len(events) != 1 {
		t.Errorf("done %q, events %q", done, events)
	}
}

// TestWhatWaitsForASourceThatIsGoneIsAnswered, and not done.
func TestWhatWaitsForASourceThatIsGoneIsAnswered(t *testing.T) {
	r := newRig(t, "slow", "pause")
	r.take("slow", "")
	testkit.Eventually(t, "it is being done", func() bool { done, _, _, _ := r.lists(); return len(done) == 1 })
	r.take("pause", `{"id": 2}`)
	r.config.Sources = nil
	r.Configure(r.config)
	testkit.Eventually(t, "both are answered", func() bool { _, answers, _, _ := r.lists(); return len(answers) == 2 })
	if _, answers, _, log := r.lists(); strings.Count(strings.Join(answers, ""), "the source is being stopped") != 2 || !strings.Contains(log, "a command is ignored: the source is being stopped") {
		t.Errorf("answers %q, log %s", answers, log)
	}
}

// ear is a broker at which commands are heard that nobody takes.
type ear struct {
	uses map[string]func(sinks.Incoming)
	made int
}

func (e *ear) Subscribe(filter string, use func(sinks.Incoming)) (func(), error) {
	e.made++
	e.uses[filter] = use
	return func() { delete(e.uses, filter) }, nil
}

// TestCommandsThatNoSourceTakesAreTold: of one that allows none, of a type that
// takes none, and of one that is not configured, which is not answered.
func TestCommandsThatNoSourceTakesAreTold(t *testing.T) {
	e := &ear{uses: map[string]func(sinks.Incoming){}}
	r := newRig(t, "pause")
	r.config.Broker = e
	r.config.Sources = append(r.config.Sources, commands.Source{Name: "silent", To: &rig{}}, commands.Source{Name: "hooks"}, commands.Source{Name: "deep/one", To: &rig{}})
	r.Configure(r.config)
	r.Configure(r.config)
	if e.made != 2 || e.uses["base/x/+/set/+"] == nil || e.uses["base/x/deep/one/set/+"] == nil {
		t.Fatalf("%d subscriptions, to %v", e.made, e.uses)
	}
	for _, c := range []struct{ filter, source, says, answer string }{
		{"+", "silent", "the source's option commands allows none", "base/x/silent/result"},
		{"deep/one", "deep/one", "the source's option commands allows none", "base/x/deep/one/result"},
		{"+", "hooks", "a source of this type takes no commands", "base/x/hooks/result"},
		{"+", "nobody", "no source of this name is configured", ""},
		{"+", "octo", "", ""}, // Take is given it
	} {
		_, before, _, logged := r.lists()
		for range 3 {
			e.uses["base/x/"+c.filter+"/set/+"](sinks.Incoming{Topic: "base/x/" + c.source + "/set/pause", Client: "phone", Received: time.Now()})
		}
		if c.answer != "" {
			testkit.Eventually(t, "it is answered", func() bool { _, answers, _, _ := r.lists(); return len(answers) == len(before)+3 })
		}
		_, answers, _, log := r.lists()
		log = log[len(logged):]
		if (c.says == "") != (log == "") || strings.Count(log, c.says+`"`) != min(1, len(c.says)) || c.says != "" && !strings.Contains(log, fmt.Sprintf(`"source":%q,"command":"pause","from":"phone"`, c.source)) {
			t.Errorf("%s: the log says %s", c.source, log)
		}
		for _, a := range answers[len(before):] {
			if c.answer == "" || !strings.HasPrefix(a, c.answer+" ") || !strings.Contains(a, c.says) {
				t.Errorf("%s: answered %s", c.source, a)
			}
		}
	}
	_, before, _, logged := r.lists()
	for _, in := range []sinks.Incoming{{Topic: "base/x/lamp/set/on", Own: true}, {Topic: "base/x/other/set/on", Retained: true}, {Topic: "base/x/silent/set/on", Own: true}} {
		e.uses["base/x/+/set/+"](in)
	}
	r.Close()
	if _, answers, _, log := r.lists(); log != logged || len(answers) != len(before) || len(e.uses) > 0 {
		t.Errorf("answers %q, log %s, subscriptions %v", answers, log[len(logged):], e.uses)
	}
}

// TestOnlyWhatIsAllowedIsSubscribedTo, below a base that may change.
func TestOnlyWhatIsAllowedIsSubscribedTo(t *testing.T) {
	r := newRig(t)
	if len(r.filters) > 0 {
		t.Errorf("%q for a source that allows nothing", r.filters)
	}
	r.config.Sources = append(r.config.Sources, commands.Source{Name: "my printer/1", To: &rig{}, Allowed: []string{"pause"}})
	r.config.Base = "other"
	r.Configure(r.config)
	if fmt.Sprint(r.filters) != "[other/my_printer/1/set/+]" {
		t.Errorf("filters %q", r.filters)
	}
}

// TestTheEventWaitsForRoom in the journal, for a while.
func TestTheEventWaitsForRoom(t *testing.T) {
	r := newRig(t, "pause")
	r.full = 3
	r.take("pause", "")
	r.await(t, 1)
}

func TestNamesOfCommandsAreChecked(t *testing.T) {
	for names, want := range map[string]string{
		"pause resume": "", "": `"" cannot be`, "a/b": "cannot be", "+": "cannot be", "a.b": "cannot be",
		strings.Repeat("x", 65): "cannot be", "pause pause": "there already", strings.TrimSuffix(strings.Repeat("x ", 101), " "): "at most 100",
	} {
		err := commands.CheckNames(strings.Split(names, " "))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", names, err, want)
		}
	}
}

// TestACommandMayComeByAnotherWay than MQTT: in its turn, if it is allowed, and
// told of as any other.
func TestACommandMayComeByAnotherWay(t *testing.T) {
	r := newRig(t, "pause", "fail", "slow")
	ask := func(name, payload string) (string, error) {
		reply, err := r.Ask(t.Context(), event.Command{Source: "octo", Name: name, Payload: []byte(payload), From: "this machine"})
		return string(reply), err
	}
	if _, err := ask("shutdown", ""); !errors.Is(err, commands.ErrNotAllowed) {
		t.Errorf("what is not allowed: %v", err)
	}
	if _, err := ask("pause", strings.Repeat("x", 9<<10)); err == nil {
		t.Error("a large payload was accepted")
	}
	if _, err := ask("pause", `{"a":1}`); err != nil {
		t.Errorf("pause: %v", err)
	}
	testkit.Eventually(t, "it is answered over MQTT, and an event", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.answers) == 1 && len(r.events) == 1 && strings.Contains(r.events[0], "this machine")
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Ask(ctx, event.Command{Source: "octo", Name: "slow"}); !errors.Is(err, context.Canceled) {
		t.Errorf("who gives up: %v", err)
	}
	close(r.release)
}
