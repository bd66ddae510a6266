package octoprint

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// flapper is a client whose connection ends at random while the program goes
// on, which is killed at random, or stops in an orderly way.
type flapper struct {
	*client
	down bool
}

// drop ends the connection, and the program if stops. What is left is stored.
func (f *flapper) drop(stops bool) {
	if f.t == nil || f.down {
		return
	}
	f.down = true
	f.keep(f.t.finish())
	switch {
	case f.t == nil:
	case stops:
		f.t = nil
	case f.m.r.IntN(3) == 0: // and OctoPrint does not answer
		f.keep(f.t.away(f.m.now, true))
	}
}

// up connects, or starts the program.
func (f *flapper) up() {
	switch down := f.down; {
	case f.t == nil:
		f.down = false
		f.connect()
	case down:
		f.down = false
		f.t.begin("admin", true, f.m.now)
		if f.m.r.IntN(3) == 0 { // OctoPrint is busy: events come before the history
			f.m.happen()
			f.m.now = f.m.now.Add(time.Duration(f.m.r.IntN(5000)) * time.Millisecond)
			if f.m.r.IntN(2) == 0 {
				f.drop(false)
				return
			}
		}
		f.take(f.m.snapshot("history"))
	}
}

// TestAConnectionThatFlapsLosesNothingAndDoublesNothing: the connection drops at
// any moment, also while events are held; the program is killed, or stops. What
// happened is told, each once, in order.
func TestAConnectionThatFlapsLosesNothingAndDoublesNothing(t *testing.T) {
	wrong, first := 0, ""
	const runs = 300
	for seed := range uint64(runs) {
		m := &model{r: rand.New(rand.NewPCG(seed, 7)), now: time.Unix(1_700_000_000, 0), state: "Offline", last: map[string]string{}}
		f := &flapper{client: &client{m: m}}
		m.send = func(frame string) {
			if !f.down {
				f.take(frame)
			}
		}
		f.connect()
		for range 40 {
			switch m.r.IntN(6) {
			case 0: // killed at the next event but some
				f.lost = m.r.IntN(3)
			case 1, 2:
				f.drop(false)
			case 3:
				f.drop(true)
			}
			m.happen()
			if m.r.IntN(3) == 0 {
				f.drop(m.r.IntN(4) == 0)
			}
			m.pass(time.Duration(600+m.r.IntN(4000)) * time.Millisecond)
			if m.r.IntN(3) > 0 {
				f.up()
			}
		}
		f.lost = -1
		for f.up(); f.t == nil || f.down; {
			f.up()
		}
		m.pass(10 * time.Second)
		r, _ := f.t.tick(m.now)
		f.keep(r)
		if told := f.doings(); !slices.Equal(told, m.truth) {
			wrong++
			if first == "" {
				first = "\n told " + strings.Join(f.told, ", ") + "\ntruth " + strings.Join(m.truth, ", ")
			}
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d runs are wrong, the first of them:%s", wrong, runs, first)
	}
}

// doings are what was told of the printer, with the words of the truth:
// connections have no path.
func (c *client) doings() []string {
	told := slices.DeleteFunc(slices.Clone(c.told), func(text string) bool {
		return strings.HasPrefix(text, "Startup") || strings.HasPrefix(text, "Shutdown")
	})
	for i, text := range told {
		if name, path, _ := strings.Cut(text, " "); path == "" && (name == "Connected" || name == "Disconnected") && i < len(c.m.truth) {
			_, truth, _ := strings.Cut(c.m.truth[i], " ")
			told[i] = name + " " + truth
		}
	}
	return told
}
