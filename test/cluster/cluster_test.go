package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// trial is what is done to a kind of cluster.
type trial struct {
	name     string
	nodes    func(*testing.T) []node
	together bool // the nodes share sessions, so that one watcher sees all
	kills    int
	every    time.Duration // a node is killed
	down     time.Duration // it stays away
}

// TestNothingIsLostWhileNodesAreKilled: events come at 200 a second from four
// sources, one node after the other is killed with SIGKILL and comes back.
// Everything that was accepted arrives, each source's in order.
//
// The table goes to the test's output, and to the file that CLUSTER_TABLE names.
func TestNothingIsLostWhileNodesAreKilled(t *testing.T) {
	var table strings.Builder
	fmt.Fprintf(&table, "%-22s %5s %9s %5s %8s %13s %s\n", "cluster", "kills", "accepted", "lost", "doubled", "out of order", "gaps in ms (more than 500)")
	for _, tr := range []trial{
		{"NATS 2.15, 3 nodes", natsCluster, true, 5, 10 * time.Second, 2 * time.Second},
		{"Mosquitto, a pair", mosquittos, false, 4, 6 * time.Second, 2 * time.Second},
		{"event2mqtt, a pair", bundled, false, 4, 6 * time.Second, 2 * time.Second},
	} {
		t.Run(tr.name, func(t *testing.T) { fmt.Fprint(&table, tr.run(t)) })
	}
	t.Log("\n" + table.String())
	if file := os.Getenv("CLUSTER_TABLE"); file != "" {
		if err := os.WriteFile(file, []byte(table.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

var sources = []string{"a", "b", "c", "d"}

func (tr *trial) run(t *testing.T) (row string) {
	nodes := tr.nodes(t)
	awaitAll(t, nodes)
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	views := tr.watchers(ctx, t, nodes, &watching)

	address := bridge(t, nodes, sources)
	stop := make(chan struct{})
	accepted := make([]int, len(sources))
	var sending sync.WaitGroup
	for i, s := range sources {
		sending.Go(func() { accepted[i] = send(t, "http://"+address+"/hooks/"+s, stop) })
	}
	until(t, "events arrive", func() bool { n, _ := views[0].distinct(); return n > 100 })
	began := time.Now()
	for i := range tr.kills {
		n := nodes[i%len(nodes)]
		n.kill()
		time.Sleep(tr.down)
		n.start()
		time.Sleep(tr.every - tr.down) // how often nodes are killed is what is tried
	}
	close(stop)
	sending.Wait()
	total := 0
	for _, n := range accepted {
		total += n
	}
	for _, v := range views {
		until(t, "all has arrived", func() bool { n, _ := v.distinct(); return n >= total })
		n, doubled := v.distinct()
		misplaced := v.misplaced()
		if n != total || misplaced > 0 {
			t.Errorf("%d events were accepted and %d came, %d of them out of order", total, n, misplaced)
		}
		var gaps []string
		for _, g := range v.gaps {
			gaps = append(gaps, fmt.Sprintf("%d at %d s", g.long.Milliseconds(), int(g.from.Sub(began).Seconds())))
		}
		row += fmt.Sprintf("%-22s %5d %9d %5d %8d %13d %s\n", tr.name, tr.kills, total, total-n, doubled, misplaced, strings.Join(gaps, ", "))
	}
	return row
}

// watchers has all nodes watched before anything is published. Nodes that share
// sessions are watched twice, from different ones; those that do not are seen as
// one.
func (tr *trial) watchers(ctx context.Context, t *testing.T, nodes []node, wg *sync.WaitGroup) (views []*seen) {
	var addresses []string
	for _, n := range nodes {
		addresses = append(addresses, n.address)
	}
	start := func(id string, brokers []string, s *seen) {
		ready := make(chan struct{})
		var once sync.Once
		wg.Go(func() { watch(ctx, id, brokers, s, func() { once.Do(func() { close(ready) }) }) })
		until(t, "a watcher has subscribed", func() bool {
			select {
			case <-ready:
				return true
			default:
				return false
			}
		})
	}
	if tr.together {
		for i := range 2 {
			s := newSeen()
			start(fmt.Sprintf("watcher-%d", i), append(addresses[i:len(addresses):len(addresses)], addresses[:i]...), s)
			views = append(views, s)
		}
		return views
	}
	s := newSeen()
	for i, address := range addresses {
		start(fmt.Sprintf("watcher-%d", i), []string{address}, s)
	}
	return []*seen{s}
}

// send posts numbered events at 50 a second until stop is closed, and returns how
// many were accepted: all of them.
func send(t *testing.T, url string, stop <-chan struct{}) (accepted int) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return accepted
		case <-tick.C:
		}
		r, err := http.Post(url, "application/json", bytes.NewReader(fmt.Appendf(nil, `{"event":"Posted","number":%d}`, accepted+1)))
		if err != nil {
			t.Errorf("an event was not accepted: %v", err)
			return accepted
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
		if r.StatusCode/100 != 2 {
			t.Errorf("an event was not accepted: %s", r.Status)
			return accepted
		}
		accepted++
	}
}
