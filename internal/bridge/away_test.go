package bridge

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/web"
)

// peerOptions are those of a source that connects, and makes an event of each
// line that comes.
type peerOptions struct {
	sources.Common `koanf:",squash"`
	Address        string        `koanf:"address" doc:"The peer."`
	dials          *atomic.Int64 // attempts to connect
}

func (*peerOptions) Check() error    { return nil }
func (*peerOptions) Exclusive() bool { return true }

func (o *peerOptions) Build(d sources.Deps) (sources.Source, error) { return &peerSource{*o, d}, nil }

type peerSource struct {
	peerOptions
	sources.Deps
}

func (s *peerSource) Run(ctx context.Context, out sources.Output) error {
	out.Ready()
	c := sources.Connection{Peer: s.Address, Log: s.Log, Min: 4 * time.Millisecond, Max: 8 * time.Millisecond}
	return c.Run(ctx, out, func(ctx context.Context, up func()) error {
		s.dials.Add(1)
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Address)
		if err != nil {
			return err
		}
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
		up()
		for lines := bufio.NewScanner(conn); ; {
			if !lines.Scan() {
				return io.EOF
			}
			if _, err := out.Emit(ctx, event.Event{Name: lines.Text()}); err != nil {
				return err
			}
		}
	})
}

// readiness asks /readyz, which must say that the bridge is ready, for a part.
func (h *rig) readiness(part string) web.Component {
	h.t.Helper()
	r, err := http.Get("http://" + h.http + "/readyz")
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Body.Close()
	var answer struct{ Components []web.Component }
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
		h.t.Fatal(err)
	}
	if r.StatusCode != http.StatusOK {
		h.t.Fatalf("/readyz answers %d: %+v", r.StatusCode, answer)
	}
	for _, c := range answer.Components {
		if c.Name == part {
			return c
		}
	}
	h.t.Fatalf("there is no part %s: %+v", part, answer)
	return web.Component{}
}

// lines are those of the log that hold a text.
func (h *rig) lines(text string) (found []string) {
	for line := range strings.Lines(h.log.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// TestAPeerThatIsAwayIsNoFailure: a source that connects to something absent is
// accepted at the start and by a reload; it waits and the bridge stays ready; it
// is up when its peer is, and waits again when that goes. The log has one line
// for each change, whatever number of attempts there are between.
func TestAPeerThatIsAwayIsNoFailure(t *testing.T) {
	var dials atomic.Int64
	types := BuiltIn()
	types.Sources = append(types.Sources, sources.Type{Name: "peer", Options: func() sources.Options { return &peerOptions{dials: &dials} }})
	for _, byReload := range []bool{false, true} {
		t.Run(fmt.Sprint("added by reload ", byReload), func(t *testing.T) {
			address := testkit.FreeAddress(t)
			with := plain + "  - {name: printer, type: peer, address: \"" + address + "\"}\n"
			var h *rig
			if byReload {
				h = newRigOf(t, types, plain, t.TempDir())
				if o := h.reload(with); !o.OK || strings.Join(o.Changed, "; ") != "source printer: added" {
					t.Fatalf("the reload: %+v", o)
				}
			} else {
				h = newRigOf(t, types, with, t.TempDir())
			}
			testComesAndGoes(t, h, address, &dials)
			if o := h.reload(plain); !o.OK {
				t.Fatalf("without it: %+v", o)
			}
		})
	}
}

func testComesAndGoes(t *testing.T, h *rig, address string, dials *atomic.Int64) {
	subscriber := h.follow()
	lines := 0
	for round := range 3 {
		testkit.Eventually(t, "it waits", func() bool {
			c := h.readiness("source printer")
			return c.Level == health.Waiting && !c.OK && strings.Contains(c.Detail, "refused") && c.LastError != "" && c.Restarts == 0
		})
		before := dials.Load()
		testkit.Eventually(t, "it tries again and again", func() bool { return dials.Load() > before+10 })
		lines++ // that it is away, or was lost
		if got := h.lines(`"source":"printer"`); len(got) != lines || !strings.Contains(got[lines-1], "cannot be reached") {
			t.Fatalf("round %d: after ten attempts the log has: %s", round, strings.Join(got, ""))
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "it is up", func() bool { return h.readiness("source printer").Level == health.Up })
		lines++ // that it is connected
		if got := h.lines(`"source":"printer"`); len(got) != lines || !strings.Contains(got[lines-1], "connected to") {
			t.Fatalf("round %d: when it is up the log has: %s", round, strings.Join(got, ""))
		}
		name := fmt.Sprint("Round", round)
		if _, err := fmt.Fprintln(conn, name); err != nil {
			t.Fatal(err)
		}
		for {
			m, err := subscriber.Next()
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(m.Topic, "/event/"+name) {
				break
			}
		}
		_ = l.Close()
		_ = conn.Close()
	}
	if failed := h.lines(" failed; "); len(failed) > 0 {
		t.Errorf("the log tells of failures: %s", failed)
	}
}
