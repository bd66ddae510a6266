package bridge

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/homeassistant"
	"event2mqtt/internal/homeassistant/store"
	"event2mqtt/internal/learned"
	"event2mqtt/internal/retry"
	"event2mqtt/internal/sinks"
)

// This file tells Home Assistant of the devices: it brings together what
// is known of them, what was announced before, and when Home Assistant comes.
// What is announced are states of a source of their own, so the main sink
// publishes them retained, clears what is no more, and does both again on each
// connection. Which steps there are is decided in package homeassistant.

// announcerPace is how long things take. Tests have less patience.
type announcerPace struct {
	quiet  time.Duration // changes are announced when there were no others for so long,
	latest time.Duration // or after this time,
	gap    time.Duration // and so long after the ones before
	birth  time.Duration // at most, between Home Assistant's start and the answer; the moment is random
	step   time.Duration // what Home Assistant has for one step before the next
	note   time.Duration // between two notes to another program that has this one's id
	// certain is how long Home Assistant must have stayed after something was
	// taken back for it to be certain that it was there: the broker needs up to
	// 90 s to notice that it is not (its keep-alive is 60 s; MQTT 3.1.1, 3.1.2.10).
	certain time.Duration
}

var usualPace = announcerPace{
	quiet: time.Second, latest: 5 * time.Second, gap: 3 * time.Second, birth: 5 * time.Second, step: 2 * time.Second, note: time.Minute, certain: 3 * time.Minute,
}

// announcer announces devices. run is its goroutine.
type announcer struct {
	b     *Bridge
	ears  *ears
	log   zerolog.Logger
	pace  announcerPace
	boot  string        // tells this run of the program from others
	began time.Time     // of this run
	poked chan struct{} // cap 1
	id    string        // of the installation
	off   bool          // nothing is announced

	mu    sync.Mutex
	there bool      // Home Assistant has started on this connection, and has not said that it ends
	visit int       // counts how often that has changed
	born  bool      // it has started, and was not answered
	noted bool      // the own note is at the broker since this run began
	other time.Time // when another program with this installation's id was heard last; zero is none
	wants subjects

	// Of run:
	memory     *homeassistant.Memory // of what is announced, as the file has it
	link       sinks.Talker          // that is listened on
	connection uint64                // that was looked at last; 0 is none
	note       []byte                // of this run, as it was published last
	renoted    time.Time             // when that was for the other program
	raise      bool                  // what may not have been heard is to be announced once more
	newest     stepped
	begun      bool              // what the run before may not have published is published
	reported   map[string]bool   // keys of states
	shown      map[string]string // sources of the devices that the log has told of, by id
	settled    bool              // what was announced before this run is compared with what is now
	keeping    retry.Loop        // of the memory's file
	last       time.Time         // when anything was announced
	answered   time.Time         // when Home Assistant's start was answered
	told       map[string]bool   // sources that have too many names of events
}

// stepped says of the newest step during which visit of Home Assistant's it was
// taken, 0 being none, and since when the broker has had all of it.
type stepped struct {
	visit int
	since time.Time
}

// subjects are the topics that an announcer listens to.
type subjects struct{ birth, birthPayload, note string }

func newAnnouncer(b *Bridge) *announcer {
	return &announcer{
		b: b, ears: &b.ears, log: b.log, pace: usualPace, boot: randomID(), began: time.Now(), poked: make(chan struct{}, 1),
		memory: homeassistant.NewMemory(), reported: map[string]bool{}, told: map[string]bool{},
	}
}

// poke has the announcer look whether anything has changed.
func (a *announcer) poke() {
	select {
	case a.poked <- struct{}{}:
	default:
	}
}

// open reads what was announced before. It is called before anything runs.
func (a *announcer) open() {
	var err error
	a.memory, err = store.Load(a.b.stateDir)
	switch {
	case errors.Is(err, store.ErrNewer):
		a.off = true
		a.log.Error().Err(err).Msg("nothing is announced to Home Assistant; install that version, or remove the file and the devices in Home Assistant")
	case err != nil:
		a.log.Error().Err(err).Msg("what was announced to Home Assistant before is not known any more; what has changed since then may stay there")
	}
	if a.id, err = store.Installation(a.b.stateDir); err != nil {
		a.off = true
		a.log.Error().Err(err).Msg("nothing is announced to Home Assistant until the program is started again")
	}
}

// run announces until ctx ends.
func (a *announcer) run(ctx context.Context) {
	if a.off {
		return
	}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		again := a.watchOther()
		again = sooner(again, a.announce(ctx))
		again = sooner(again, a.forgetHeard())
		if again > 0 {
			timer.Reset(again)
		}
		a.last = time.Now()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-a.poked:
			a.rest(ctx)
		}
	}
}

// sooner is the smaller of two times to wait; 0 is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// rest waits until nothing has changed for a while: descriptions come in parts,
// and Home Assistant takes its time for each message.
func (a *announcer) rest(ctx context.Context) {
	latest := time.NewTimer(max(a.pace.latest, time.Until(a.last.Add(a.pace.gap))))
	defer latest.Stop()
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	for !a.isBorn() { // which has a pause of its own
		quiet.Reset(max(a.pace.quiet, time.Until(a.last.Add(a.pace.gap))))
		select {
		case <-ctx.Done():
			return
		case <-latest.C:
			return
		case <-quiet.C:
			return
		case <-a.poked:
		}
	}
}

// announce brings what is announced up to date, in as many steps as it takes.
// It returns when to try again what has failed; 0 is when something changes.
func (a *announcer) announce(ctx context.Context) (again time.Duration) {
	for ctx.Err() == nil {
		a.follow()
		if a.isBorn() {
			a.answer(ctx)
		}
		more, err := a.round()
		if err != nil {
			pause, fresh := a.keeping.Next(err, 0)
			if fresh {
				a.log.Error().Err(err).Msg("what has changed is not announced to Home Assistant until that can be kept; see to it that the state folder has room and can be written to")
			}
			return pause
		}
		a.keeping.Reset()
		if !more {
			return 0
		}
		a.await(ctx)
	}
	return 0
}

// follow takes it that there is another connection, or another sink.
func (a *announcer) follow() {
	talker, _, connection := a.sink()
	a.listen(talker)
	if connection == a.connection {
		return
	}
	a.connection = connection
	if connection > 0 { // Home Assistant may be there since long
		a.raise = a.memory.HasUnheard()
		a.note = a.newNote()
	}
}

// answer waits a random moment, since many may answer, and has everything
// published again.
func (a *announcer) answer(ctx context.Context) {
	pause := rand.N(a.pace.birth + 1)                                      //nolint:gosec // it need not be a secret
	retry.Sleep(ctx, max(pause, time.Until(a.answered.Add(a.pace.birth)))) // whoever may publish could ask without end
	a.answered = time.Now()
	a.mu.Lock()
	a.born = false
	a.mu.Unlock()
	a.raise = a.memory.HasUnheard()
	a.log.Info().Msg("Home Assistant has started; all devices are announced to it again")
	a.b.states.Again()
}

func (a *announcer) isBorn() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.born
}

// visitor is which visit of Home Assistant's it is now; 0 is none.
func (a *announcer) visitor() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.there {
		return 0
	}
	return a.visit
}

// present notes whether Home Assistant is there. mu is held.
func (a *announcer) present(is bool) {
	a.there = is
	a.visit++
}

// forgetHeard forgets what was taken back once Home Assistant is certain to have
// heard that: it began its visit before, at which all that was unheard until then
// was announced again, and is still there long after the broker had all. It
// returns when to look again; 0 is at its next start.
func (a *announcer) forgetHeard() time.Duration {
	if visit := a.visitor(); visit == 0 || visit != a.newest.visit || !a.memory.HasUnheard() || a.isBorn() {
		return 0
	}
	if _, retainer, _ := a.sink(); retainer == nil || !retainer.Has(event.DiscoverySource) {
		a.newest.since = time.Now()
	}
	if left := time.Until(a.newest.since.Add(a.pace.certain)); left > 0 {
		return left
	}
	next := a.memory.Clone()
	next.Heard()
	if err := store.Save(a.b.stateDir, next); err != nil {
		return a.pace.certain // it is no loss to announce it once more
	}
	a.memory = next
	return 0
}

// round takes one step, and reports whether there is another.
func (a *announcer) round() (more bool, err error) {
	plan := a.plan()
	if !a.begun {
		a.begun = true
		if a.memory.HasUnheard() {
			a.report(a.memory.Again(), plan.HomeAssistant.Discovery)
			return true, nil
		}
	}
	setup := plan.setup(a.id)
	wanted := map[string]homeassistant.Message{}
	if plan.HomeAssistant.Discovery {
		wanted = a.wanted(plan, setup)
	}
	raising, visit := a.raise, a.visitor()
	if raising {
		wanted = a.memory.WithUnheard(wanted, setup.Topic)
	}
	next := a.memory.Clone()
	messages, more := next.Round(wanted)
	if !reflect.DeepEqual(next, a.memory) {
		if err := store.Save(a.b.stateDir, next); err != nil {
			return false, err
		}
		a.newest = stepped{visit, time.Now()}
	}
	a.memory, a.raise = next, false
	a.report(messages, plan.HomeAssistant.Discovery)
	return more || raising, nil
}

// wanted are the devices as they are known now.
func (a *announcer) wanted(plan *Plan, setup *homeassistant.Setup) map[string]homeassistant.Message {
	names := a.b.devices.learned.Of
	for _, o := range plan.sources {
		name := o.Base().Name
		if _, is := shown(o); is && !a.told[name] && len(names(name)) >= learned.MaxNames {
			a.told[name] = true
			a.log.Warn().Str("source", name).Msgf("the source has sent events with %d different names; more of them are published, but Home Assistant's event entity does not show them", learned.MaxNames)
		}
	}
	described, topics := a.b.devices.described()
	return plan.things(setup, known{described: described, topics: topics, memory: a.memory, learned: func(source string) []string {
		if all := names(source); len(all) > 0 {
			return all
		}
		return a.memory.EventTypes(source) // the journal that had them was lost
	}})
}

// Keys of states.
const (
	keyDevice = "device/" // and the id
	keyNote   = "note"
)

// report has the messages published, and no others.
func (a *announcer) report(messages map[string]homeassistant.Published, discovery bool) {
	reported := map[string]bool{}
	var states []event.State
	for id, m := range messages {
		states = append(states, event.State{Key: keyDevice + id, Topic: m.Topic, Payload: m.Payload})
	}
	a.mu.Lock()
	if at := a.wants.note; at != "" && a.note != nil && discovery {
		states = append(states, event.State{Key: keyNote, Topic: at, Payload: a.note})
	}
	a.mu.Unlock()
	for _, st := range states {
		reported[st.Key] = true
	}
	var gone []string
	for key := range a.reported {
		if !reported[key] {
			gone = append(gone, key)
		}
	}
	if len(gone) > 0 {
		a.b.states.Remove(event.DiscoverySource, gone...)
	}
	if err := a.b.states.Report(event.DiscoverySource, states...); err != nil {
		a.log.Error().Err(err).Msg("not all devices are announced to Home Assistant")
	}
	a.reported = reported
	a.logDevices(messages)
	if !a.settled {
		a.settled = true
		a.b.states.Settle(event.DiscoverySource) // what is not reported now is no more
	}
}

// logDevices logs which devices are announced now, and which are no longer.
func (a *announcer) logDevices(messages map[string]homeassistant.Published) {
	shown := map[string]string{}
	for id := range messages {
		shown[id] = cmp.Or(a.memory.Shown[id].Source, "event2mqtt")
	}
	fresh, gone := missing(shown, a.shown), missing(a.shown, shown)
	a.shown = shown
	if len(fresh) > 0 {
		a.log.Info().Strs("devices", fresh).Msg("devices are announced for Home Assistant")
	}
	if len(gone) > 0 {
		a.log.Info().Strs("devices", gone).Msg("devices are taken away from Home Assistant")
	}
}

// missing are the values, in order, whose keys another map does not have.
func missing(of, in map[string]string) (all []string) {
	for key, value := range of {
		if _, there := in[key]; !there {
			all = append(all, value)
		}
	}
	slices.Sort(all)
	return all
}

// await waits until the broker has all of a step, and then for as long as Home
// Assistant may need for it.
func (a *announcer) await(ctx context.Context) {
	pause := 20 * time.Millisecond
	for {
		_, retainer, _ := a.sink() // a reload may replace it
		if retainer == nil || retainer.Has(event.DiscoverySource) {
			break
		}
		if !retry.Sleep(ctx, pause) {
			return
		}
		pause = min(2*pause, time.Second)
	}
	retry.Sleep(ctx, a.pace.step)
}

// sink is the main one, as far as the announcer needs it, and the number of its
// connection; 0 is none.
func (a *announcer) sink() (talker sinks.Talker, retainer sinks.Retainer, connection uint64) {
	a.b.mu.RLock()
	part := a.b.now.part("sink " + mainSink)
	a.b.mu.RUnlock()
	talker, _ = part.part.(sinks.Talker)
	retainer, _ = part.part.(sinks.Retainer)
	if c, ok := part.part.(sinks.Connector); ok && part.health.Report().Level == health.Up {
		connection = c.Connections()
	}
	return talker, retainer, connection
}

// plan is the one that runs.
func (a *announcer) plan() *Plan {
	a.b.mu.RLock()
	defer a.b.mu.RUnlock()
	return a.b.now.plan
}

func (a *announcer) isCloned() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.other.IsZero()
}
