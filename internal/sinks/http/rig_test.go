package httpsink_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/refused"
	"event2mqtt/internal/sinks"
	httpsink "event2mqtt/internal/sinks/http"
	"event2mqtt/internal/testkit"
)

// request is one that a server got.
type request struct {
	*http.Request
	at   time.Time
	body string
}

// rig is a sink that runs, with a journal in front and a server behind.
type rig struct {
	*testing.T
	options *httpsink.Options
	server  *httptest.Server
	journal *journal.Journal
	cursor  *journal.Cursor
	health  health.Record
	log     testkit.Log
	stop    func()

	mu      sync.Mutex
	got     []request
	refused []refused.Event
}

// Keep implements sinks.Keeper.
func (r *rig) Keep(e refused.Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused = append(r.refused, e)
	return nil
}

func (r *rig) kept() []refused.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

func (r *rig) requests() []request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got
}

// newRig runs a sink whose server answers each request, which is numbered from 0,
// as answer says; nil is 200. change is given the options with the server's URL.
func newRig(t *testing.T, change func(*httpsink.Options), answer func(w http.ResponseWriter, r *http.Request, n int)) *rig {
	t.Helper()
	r := &rig{T: t}
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		r.mu.Lock()
		n := len(r.got)
		r.got = append(r.got, request{q, time.Now(), string(body)})
		r.mu.Unlock()
		if answer != nil {
			answer(w, q, n)
		}
	}))
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.server.Start()
	r.options = options(r.server.URL + "/hook")
	if change != nil {
		change(r.options)
	}
	r.options.Prepare()
	r.start()
	return r
}

func (r *rig) start() {
	r.Helper()
	var err error
	r.journal, err = journal.Open(journal.Options{FS: journal.DirFS(r.TempDir()), Sync: journal.SyncNever, Log: zerolog.Nop()})
	testkit.OK(r, err)
	r.cursor, err = r.journal.Cursor("there")
	testkit.OK(r, err)
	r.run()
	r.Cleanup(func() {
		r.stop()
		r.server.CloseClientConnections()
		r.server.Close()
		testkit.OK(r, r.journal.Close())
		if r.Failed() {
			r.Logf("its log:\n%s", &r.log)
		}
	})
}

// run runs a sink of the options.
func (r *rig) run() {
	r.Helper()
	testkit.OK(r, r.options.Check())
	s, err := r.options.Build(sinks.Deps{ID: r.journal.ID, Refused: r, Log: zerolog.New(&r.log)})
	testkit.OK(r, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.Run(ctx, r.cursor, event.NewStates(), r.health.Tell); err != nil {
			r.Error(err)
		}
	}()
	r.stop = sync.OnceFunc(func() { cancel(); <-ended })
}

// emit stores an event.
func (r *rig) emit(name, payload string) {
	r.Helper()
	e := event.Event{Name: name, Source: "press", Time: time.Unix(1772362800, 5e6), Payload: []byte(payload)}
	testkit.OK(r, event.Normaliser{MaxPayload: 1 << 20}.Normalise(&e))
	_, err := r.journal.Append(r.Context(), e)
	testkit.OK(r, err)
}

func (r *rig) numbered(n int) {
	r.Helper()
	for i := range n {
		r.emit(fmt.Sprintf("E%d", i), "{}")
	}
}

func (r *rig) delivered() {
	r.Helper()
	testkit.Eventually(r, "all is acknowledged", func() bool { return r.cursor.Lag() == 0 })
}

// names are the events of the requests, in their order.
func (r *rig) names() string {
	var all []string
	for _, q := range r.requests() {
		_, rest, _ := strings.Cut(q.body, `"_event":"`)
		name, _, _ := strings.Cut(rest, `"`)
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

func (r *rig) level() health.Level { return r.health.Report().Level }
