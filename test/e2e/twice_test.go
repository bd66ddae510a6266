package e2e

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// twiceKills is how often TestHowManyEventsComeTwice kills. The figures in
// docs/performance.md are of 15, with -program for those of before.
var twiceKills = flag.Int("twice-kills", 2, "how often TestHowManyEventsComeTwice kills the program, under load and when it is quiet")

// ids counts the events that come, and those that came before, by their ids.
type ids struct {
	mu           sync.Mutex
	seen         map[string]bool
	total, twice int
}

func countIDs(t *testing.T, addr string) *ids {
	t.Helper()
	c, err := mqttest.Dial(addr, mqttest.Options{})
	testkit.OK(t, err)
	_, err = c.Subscribe("event2mqtt/event/#", 1)
	testkit.OK(t, err)
	n := &ids{seen: map[string]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			m, err := c.Next()
			if err != nil {
				return
			}
			var event struct {
				ID string `json:"_id"`
			}
			if unmarshal(m.Payload, &event) != nil || event.ID == "" {
				continue
			}
			n.mu.Lock()
			n.total++
			if n.seen[event.ID] {
				n.twice++
			}
			n.seen[event.ID] = true
			n.mu.Unlock()
		}
	})
	t.Cleanup(func() { c.Close(); wg.Wait() })
	return n
}

func (n *ids) counts() (total, twice int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.total, n.twice
}

// TestHowManyEventsComeTwice kills the program under load, which shows the
// figure, and when it is quiet: then nothing comes twice, as soon as that is noted.
func TestHowManyEventsComeTwice(t *testing.T) {
	addr := ownBroker(t)
	p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\npublish: {id_field: _id}\nsources: [{name: default, type: webhook}]\n", addr))
	n := countIDs(t, addr)
	delivered := func() {
		t.Helper()
		testkit.Eventually(t, "all is delivered", func() bool {
			return unmarked(p.state) == 0
		})
	}
	p.start()
	sum, began := 0, time.Now()
	for range *twiceKills {
		senders := startSenders(p.http, 16)
		time.Sleep(1500 * time.Millisecond)
		_, before := n.counts()
		p.kill()
		senders.finish()
		p.start()
		delivered()
		_, after := n.counts()
		sum += after - before
	}
	total, _ := n.counts()
	t.Logf("under load, of some %d events/s: %.1f come twice after a kill", total/max(1, int(time.Since(began).Seconds())), float64(sum)/float64(*twiceKills))

	for _, pause := range []time.Duration{0, 100 * time.Millisecond, -1} {
		sum = 0
		for range *twiceKills {
			want, before := n.counts()
			want += 20
			for i := range 20 {
				p.post(posted(i))
			}
			testkit.Eventually(t, "all arrives", func() bool { total, _ := n.counts(); return total >= want })
			if time.Sleep(pause); pause < 0 {
				delivered()
			}
			p.kill()
			p.start()
			p.post(posted(20))
			delivered()
			_, after := n.counts()
			sum += after - before
		}
		after := fmt.Sprint(pause, " after it is quiet")
		if pause < 0 {
			after = "once it is noted what is delivered"
		}
		t.Logf("%s: %.1f of 20 come twice after a kill", after, float64(sum)/float64(*twiceKills))
		if pause < 0 && sum > 0 {
			t.Errorf("%d events came twice, although their delivery was noted", sum)
		}
	}
}

// unmarked is how many events a program that starts after a kill at this moment
// would send, or -1 where a copy of the journal cannot be read while it changes.
func unmarked(state string) int {
	dir, err := os.MkdirTemp("", "unmarked")
	if err != nil {
		return -1
	}
	defer os.RemoveAll(dir)
	from := filepath.Join(state, "journal")
	err = walk(from, func(name string, text []byte) error {
		return os.WriteFile(filepath.Join(dir, name), text, 0o600)
	})
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintln(os.Stderr, err)
		}
		return -1
	}
	j, err := journal.Open(journal.Options{FS: journal.DirFS(dir), Log: zerolog.Nop()})
	if err != nil {
		return -1
	}
	defer j.Close()
	for _, m := range j.Marks() {
		if m.Name == "mqtt" {
			return int(m.Lag)
		}
	}
	return -1
}
