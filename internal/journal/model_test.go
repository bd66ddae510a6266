package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
)

// model is what the journal must hold, kept in plain slices.
type model struct {
	fullDisk bool // the disk was full when the process died
	t        *rapid.T
	fs       *memFS
	opt      journal.Options
	j        *journal.Journal
	c        *journal.Cursor
	sent     int
	// log is what was offered, in order, with what became of it.
	log []offered
	// read is how many of log the cursor has surely passed.
	acked uint64
	// position must be the newest durable one.
	reads []journal.Entry // since the last reopening
	side  side
}

type offered struct {
	name string
	size int
	seq  uint64 // if kept
	fate fate
}

type fate int

const (
	kept    fate = iota // Append said so
	refused             // Append said so; must not appear
	unsure              // the machine went off in between: either way
	flipped             // kept, but its bytes were damaged on disk
)

func payload(name string, size int) []byte {
	return fmt.Appendf(nil, `{"n":"%s","x":"%s"}`, name, strings.Repeat("x", size))
}

func (m *model) open() {
	j, err := journal.Open(m.opt)
	if err != nil {
		m.t.Fatalf("open: %v", err)
	}
	c, err := j.Cursor("sink")
	if err != nil {
		m.t.Fatalf("cursor: %v", err)
	}
	m.j, m.c, m.reads = j, c, nil
	m.side.c = nil
}

// append offers a batch of events.
func (m *model) append(n, size int) {
	events := make([]event.Event, n)
	for i := range events {
		m.sent++
		name := fmt.Sprint(m.sent)
		events[i] = event.Event{
			Name: name, Source: "s", Time: time.Unix(int64(m.sent), 0), Payload: payload(name, size),
			Position: event.Position{Key: fmt.Sprint("f", m.sent%3), Value: []byte(name)},
		}
	}
	last, err := m.j.Append(context.Background(), events...)
	for i, e := range events {
		o := offered{name: e.Name, size: size, seq: last - uint64(n-1-i), fate: kept}
		if err != nil {
			o.fate = refused
			if errors.Is(err, errDead) {
				o.fate = unsure
			}
		}
		m.log = append(m.log, o)
	}
}

// drain reads all there is and holds it against the log.
func (m *model) drain() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // do not wait for more
	buf := make([]journal.Entry, 0, 7)
	for {
		got, err := m.c.Next(ctx, buf)
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			m.t.Fatalf("next: %v", err)
		}
		m.reads = append(m.reads, got...)
	}
	m.check()
}

func (m *model) check() {
	i := 0
	positions := map[string]string{}
	for _, o := range m.log {
		present := i < len(m.reads) && m.reads[i].Name == o.name
		if present {
			e := m.reads[i]
			i++
			if o.fate == refused {
				m.t.Fatalf("event %s was refused and appears all the same", o.name)
			}
			if !bytes.Equal(e.Payload, payload(o.name, o.size)) || e.Source != "s" || e.Time.Unix() == 0 {
				m.t.Fatalf("event %s came back changed: %+v", o.name, e)
			}
			if o.seq != 0 && o.fate == kept && o.seq != e.Seq {
				m.t.Fatalf("event %s had seq %d and now has %d", o.name, o.seq, e.Seq)
			}
		} else if o.fate == kept && o.seq > m.acked {
			m.t.Fatalf("event %s (seq %d, acked %d) was accepted and is lost; read %d of %d", o.name, o.seq, m.acked, i, len(m.reads))
		}
		if present || o.fate == kept {
			positions["f"+fmt.Sprint(atoi(o.name)%3)] = o.name
		}
	}
	if i < len(m.reads) {
		m.t.Fatalf("event %s came out of order or out of nowhere", m.reads[i].Name)
	}
	if m.anyFlipped() {
		return
	}
	// On a full disk the marks may not be saved before what they tell of is
	// removed; after a crash nobody knows then that it was delivered.
	if lost := m.j.Stats().Lost; lost > 0 && !m.fullDisk {
		m.t.Fatalf("%d events are reported as lost, and none was", lost)
	}
	got := m.j.Positions("s")
	for key, name := range positions {
		if string(got[key]) != name {
			m.t.Fatalf("position of %s is %q, want %q", key, got[key], name)
		}
	}
}

func (m *model) anyFlipped() bool {
	for _, o := range m.log {
		if o.fate == flipped {
			return true
		}
	}
	return false
}

func atoi(s string) (n int) {
	fmt.Sscan(s, &n)
	return n
}

// restart ends the journal and opens it again. What was in flight is settled
// by what is found: from then on it must stay so.
func (m *model) restart() {
	m.fs.failWith(nil)
	m.open()
	m.reads = nil
	m.drain()
	found := map[string]uint64{}
	for _, e := range m.reads {
		found[e.Name] = e.Seq
	}
	for i := range m.log {
		o := &m.log[i]
		if o.fate == unsure {
			if seq, ok := found[o.name]; ok {
				o.fate, o.seq = kept, seq
			} else {
				o.fate = refused
			}
		}
	}
	m.checkMarks()
}

func (m *model) ack(n int) {
	if len(m.reads) == 0 {
		return
	}
	seq := m.reads[min(n, len(m.reads)-1)].Seq
	m.c.Ack(seq)
	m.acked = max(m.acked, seq)
}

// dieAfter makes every file operation after the next n fail.
func (m *model) dieAfter(n int) {
	m.fs.failWith(func(string, string) error {
		if n--; n < 0 {
			return errDead
		}
		return nil
	})
}

func (m *model) run(t *rapid.T, actions map[string]func(*rapid.T)) {
	wrapped := maps.Clone(actions)
	for name, act := range actions {
		wrapped[name] = func(t *rapid.T) { m.t = t; act(t) }
	}
	t.Repeat(wrapped)
	m.t = t
	m.j.Close()
	m.restart()
	m.j.Close()
}

func newModel(t *rapid.T) *model {
	m := &model{t: t, fs: newMemFS(rapid.Uint64().Draw(t, "seed"))}
	m.opt = journal.Options{FS: m.fs, MaxSize: rapid.SampledFrom([]int64{24 << 10, 1 << 20}).Draw(t, "size"), SegmentSize: 4 << 10, Memory: rapid.SampledFrom([]int{1, 2000, 1 << 20}).Draw(t, "memory"), Log: zerolog.Nop()}
	m.open()
	return m
}

func (m *model) common() map[string]func(*rapid.T) {
	actions := m.cursors()
	maps.Copy(actions, map[string]func(*rapid.T){
		"append": func(t *rapid.T) {
			m.append(rapid.IntRange(1, 5).Draw(t, "n"), rapid.IntRange(0, 1500).Draw(t, "size"))
		},
		"read": func(*rapid.T) { m.drain() },
		"ack": func(t *rapid.T) {
			m.drain()
			m.ack(rapid.IntRange(0, 50).Draw(t, "upto"))
		},
		"rewind": func(*rapid.T) {
			m.c.Rewind()
			m.reads = nil
			m.drain()
		},
		// Whatever happened before: what is delivered makes room.
		"deliver all": func(t *rapid.T) {
			m.drain()
			m.ack(len(m.reads))
			before := len(m.log)
			m.append(rapid.IntRange(1, 5).Draw(t, "n"), 1000)
			if m.log[before].fate != kept && !m.held() {
				t.Fatal("everything is delivered, and no room is made")
			}
		},
		"restart": func(*rapid.T) {
			m.j.Close()
			m.restart()
		},
	})
	return actions
}

// TestAcceptedEventsSurviveEveryCrash holds the journal against the model
// while the process is killed and power cut at random file operations.
func TestAcceptedEventsSurviveEveryCrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		actions := m.common()
		actions["kill"] = func(t *rapid.T) {
			m.dieAfter(rapid.IntRange(0, 6).Draw(t, "operations"))
			m.append(rapid.IntRange(1, 5).Draw(t, "n"), rapid.IntRange(0, 1500).Draw(t, "size"))
			m.j.Close()
			m.restart()
		}
		actions["power cut"] = func(t *rapid.T) {
			m.dieAfter(rapid.IntRange(0, 6).Draw(t, "operations"))
			m.append(rapid.IntRange(1, 5).Draw(t, "n"), rapid.IntRange(0, 1500).Draw(t, "size"))
			m.j.Close()
			m.fs.powerCut()
			m.restart()
		}
		m.run(t, actions)
	})
}

// TestRefusedEventsNeverAppear holds the journal against the model while
// single file operations fail: no space, input/output errors.
func TestRefusedEventsNeverAppear(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		actions := m.common()
		actions["failing disk"] = func(t *rapid.T) {
			failure := rapid.SampledFrom([]error{errIO, errSpace}).Draw(t, "failure")
			from := rapid.IntRange(0, 5).Draw(t, "from")
			times := rapid.IntRange(1, 4).Draw(t, "times")
			m.fs.failWith(func(op, name string) error {
				if op == "read" || op == "list" {
					return nil
				}
				if from--; from < 0 && times > 0 {
					times--
					return failure
				}
				return nil
			})
			for range 3 {
				m.append(rapid.IntRange(1, 3).Draw(t, "n"), 300)
			}
			m.fs.failWith(nil)
			// A journal that could not yet take back what it refused does so
			// with the next event.
			before := len(m.log)
			m.append(1, 10)
			if m.log[before].fate != kept && m.j.Stats().Bytes < m.opt.MaxSize/2 {
				t.Fatal("the disk is well again and the journal is not")
			}
			m.drain()
		}
		m.run(t, actions)
	})
}

// TestRoomIsMadeAfterAFullDiskAndACrash: the disk fills up, the process is
// killed before it could clean up, and all that is left gets delivered.
func TestRoomIsMadeAfterAFullDiskAndACrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		m.fullDisk = true
		actions := m.common()
		actions["full disk, then killed"] = func(t *rapid.T) {
			from := rapid.IntRange(0, 5).Draw(t, "from")
			dies := rapid.IntRange(from, 12).Draw(t, "dies")
			m.fs.failWith(func(op, name string) error {
				from, dies = from-1, dies-1
				switch {
				case dies < 0:
					return errDead
				case from < 0 && (op == "write" || op == "create"):
					return errSpace
				}
				return nil
			})
			for range 3 {
				m.append(rapid.IntRange(1, 3).Draw(t, "n"), 300)
			}
			m.j.Close()
			// What was refused last may not have been taken back in time.
			for i := len(m.log) - 1; i >= 0 && m.log[i].fate != kept; i-- {
				m.log[i].fate = unsure
			}
			m.restart()
		}
		m.run(t, actions)
	})
}

// TestDamageCostsOnlyWhatWasDamaged flips bits in old segments.
func TestDamageCostsOnlyWhatWasDamaged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		actions := m.common()
		delete(actions, "ack")
		delete(actions, "deliver all")
		actions["flip a bit"] = func(t *rapid.T) {
			m.j.Close()
			m.flip(t)
			m.restart()
		}
		m.run(t, actions)
	})
}

// flip changes one byte in a segment other than the newest and marks the
// events whose records it hit.
func (m *model) flip(t *rapid.T) {
	files, _ := m.fs.List()
	var segments []string
	newest := ""
	for _, f := range files {
		if strings.HasSuffix(f.Name, ".seg") {
			segments = append(segments, f.Name)
			newest = max(newest, f.Name)
		}
	}
	if len(segments) < 2 {
		return
	}
	name := rapid.SampledFrom(slices.Sorted(slices.Values(segments))).Draw(t, "segment")
	if name == newest {
		return
	}
	data := m.fs.names[name].data
	at := rapid.IntRange(0, len(data)-1).Draw(t, "at")
	start := max(0, bytes.LastIndex(data[:min(at+len(marker), len(data))], []byte(marker)))
	end := len(data)
	if next := bytes.Index(data[start+1:], []byte(marker)); next >= 0 {
		end = start + 1 + next
	}
	for i := range m.log {
		if o := &m.log[i]; bytes.Contains(data[start:end], fmt.Appendf(nil, `{"n":"%s"`, o.name)) {
			o.fate = flipped
		}
	}
	data[at] ^= byte(1 << rapid.IntRange(0, 7).Draw(t, "bit"))
}

const marker = "\xe2\x1amq"
