package octoprint

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/retry"
	"event2mqtt/internal/sources/octoprint/api"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"
)

// dial opens a link to a server that may answer pings, and sends what it is
// given.
func dial(t *testing.T, answers bool, frames <-chan string) *link {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		if !answers {
			conn.SetPingHandler(func(string) error { return nil })
		}
		go func() {
			for frame := range frames {
				_ = conn.WriteMessage(websocket.TextMessage, []byte(frame))
			}
		}()
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(s.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	l := newLink(conn)
	l.every, l.silent = 20*time.Millisecond, 2*time.Second
	l.start(t.Context())
	t.Cleanup(l.stop)
	return l
}

// TestAnAttemptThatTakesLongIsNoConnection: what it failed of is no news for
// that, however long the timeout is.
func TestAnAttemptThatTakesLongIsNoConnection(t *testing.T) {
	s := &Source{loop: retry.Loop{Steady: maxPause}}
	failure := &api.Error{Kind: api.Away, Text: "no answer"}
	for i, want := range []zerolog.Level{zerolog.WarnLevel, zerolog.NoLevel, zerolog.NoLevel} {
		if got := s.isNews(failure, s.lasted()); got != want {
			t.Errorf("attempt %d: %s, want %s", i, got, want)
		}
		s.loop.Next(failure, s.lasted())
	}
	s.came = time.Now().Add(-time.Hour)
	if got := s.isNews(failure, s.lasted()); got != zerolog.WarnLevel {
		t.Errorf("after an hour's connection: %s", got)
	}
}

// TestSnapshotsComeRarelyWhileNothingHappens, and as fast as they can while
// something is printed, after an event, and while what was missed is looked for.
func TestSnapshotsComeRarelyWhileNothingHappens(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		stirred time.Duration // before now
		change  func(*translator)
		want    int
	}{
		"nothing happens":     {time.Hour, func(*translator) {}, 4},
		"something happened":  {9 * time.Second, func(*translator) {}, 1},
		"a print goes on":     {time.Hour, func(t *translator) { t.active = true }, 1},
		"it catches up":       {time.Hour, func(t *translator) { t.catching = true }, 1},
		"an event is awaited": {time.Hour, func(t *translator) { t.hole = true }, 1},
	} {
		tr := newTranslator(Type.Options().(*Options), nil, asks{})
		c.change(tr)
		if got := (&serving{stirred: now.Add(-c.stirred)}).pace(tr, now); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestAPeerThatIsGoneWithoutAWordIsNoticed by its silence.
func TestAPeerThatIsGoneWithoutAWordIsNoticed(t *testing.T) {
	t.Parallel()
	frames := make(chan string)
	defer close(frames)
	l := dial(t, false, frames)
	if _, open := <-l.frames; open || !strings.Contains(l.err.Error(), "nothing came for too long") {
		t.Error(l.err)
	}
}

// TestAQuietPeerIsKept: one that answers pings is there, and so is one whose
// frames nobody takes for a while, pongs behind them.
func TestAQuietPeerIsKept(t *testing.T) {
	t.Parallel()
	frames := make(chan string)
	l := dial(t, true, frames)
	time.Sleep(3 * l.silent / 2)
	for range queued + 10 { // the reader waits for somebody to take them
		frames <- "x"
	}
	time.Sleep(3 * l.silent / 2)
	for range queued + 10 {
		if _, open := <-l.frames; !open {
			t.Fatal(l.err)
		}
	}
	frames <- "y"
	close(frames)
	if in := <-l.frames; string(in.raw) != "y" {
		t.Error(l.err)
	}
}

// TestQuestionsOfAConnectionAreBounded in number, and end with the program.
func TestQuestionsOfAConnectionAreBounded(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_, _ = w.Write([]byte(`{"files":[]}`))
	}))
	defer server.Close()
	o := Type.Options().(*Options)
	o.URL, o.APIKey = server.URL, "0123456789ABCDEF"
	s, err := New(*o, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer s.client.Close()
	ctx, end := context.WithCancel(t.Context())
	a := s.bounded(ctx)
	for i := range 2 * maxAsked {
		answer := a.file("local", "x")
		if i%2 > 0 {
			answer = a.files()
		}
		if i == 0 && len(answer) == 0 {
			t.Error("no answer")
		}
	}
	if asked != maxAsked {
		t.Errorf("%d were asked", asked)
	}
	if a = s.bounded(ctx); a.ended() {
		t.Error("it has not ended")
	}
	if end(); !a.ended() || a.files() != nil || asked != maxAsked {
		t.Errorf("asked %d when it has ended", asked)
	}
}
