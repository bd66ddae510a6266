package octoprint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"event2mqtt/internal/health"
	"event2mqtt/internal/sources/octoprint/api"
)

// This file is one connection to the push API.

const (
	// pingEvery is how often OctoPrint is asked whether it is there: it sends
	// nothing by itself while no printer is connected.
	pingEvery = 15 * time.Second
	// silence is how long nothing may come, pongs included.
	silence = 2*pingEvery + 5*time.Second
	// authPatience is how long OctoPrint may take to answer authentication,
	// which it does with a snapshot, or not at all.
	authPatience = 5 * time.Second
	// queued bounds the frames that were read and not worked on. Beyond it
	// reading stops, and OctoPrint keeps the rest.
	queued = 64
	// reauthPause is how long after a new login a wish for another one is of
	// the same cause: OctoPrint utters some four times.
	reauthPause = 2 * time.Second
	// maxReauth bounds the logins that follow each other without a snapshot.
	maxReauth = 3
	// maxReason bounds what is said of why a connection ended, in bytes.
	maxReason = 256
)

// subscription is what is asked for: states without the log, but for the lines
// that say that the printer waits for its user; events; nothing of plugins.
var subscription = map[string]any{"subscribe": map[string]any{
	"state": map[string]any{"logs": waits, "messages": false}, "events": true, "plugins": false,
}}

// connect logs in, opens a connection and works on what comes until that ends.
// The error says why, in words for people.
func (s *Source) connect(ctx context.Context) error {
	login, err := s.client.Login(ctx)
	if err != nil {
		return s.gone(ctx, err)
	}
	conn, err := s.client.Dial(ctx)
	if err != nil {
		return s.gone(ctx, err)
	}
	l := newLink(conn)
	l.start(ctx)
	defer l.stop()
	if err := l.send(subscription, map[string]string{"auth": login.Auth()}); err != nil {
		return s.lost(err)
	}
	s.t.asks = s.bounded(ctx)
	s.t.begin(login.Name, s.again, time.Now())
	s.again = true
	err = s.serve(ctx, l, login)
	if ctx.Err() != nil { // what was to be made up just then is left to the next start
		s.t.rewind(s.out.Positions()[positionKey])
	}
	return cmp.Or(s.deliver(ctx, s.t.finish()), err)
}

const (
	// askFor is how long questions may take together in askWindow, and maxAsked
	// how many they may be. A program that catches up asks once for all files, and
	// for each print that left no marking.
	askFor    = 30 * time.Second
	maxAsked  = 100
	askWindow = 10 * time.Minute
)

// bounded are the questions that one connection may ask.
func (s *Source) bounded(ctx context.Context) asks {
	var since time.Time
	var took time.Duration
	asked := 0
	ask := func(question func(asks) []byte) []byte {
		now := time.Now()
		if now.Sub(since) > askWindow {
			since, took, asked = now, 0, 0
		}
		if took >= askFor || asked >= maxAsked {
			return nil
		}
		asked++
		limited, cancel := context.WithTimeout(ctx, askFor-took)
		defer cancel()
		defer func() { took += time.Since(now) }()
		return question(s.asks(limited))
	}
	return asks{
		file:  func(origin, path string) []byte { return ask(func(a asks) []byte { return a.file(origin, path) }) },
		files: func() []byte { return ask(func(a asks) []byte { return a.files() }) },
		ended: func() bool { return ctx.Err() != nil },
	}
}

// gone notes that OctoPrint does not answer, and returns why.
func (s *Source) gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	if storeErr := s.deliver(ctx, s.t.away(time.Now(), api.KindOf(err) == api.Away)); storeErr != nil {
		return storeErr
	}
	return err
}

// lostError is the error for a connection that has ended.
type lostError struct {
	at    string
	cause error
}

func (e *lostError) Error() string {
	return fmt.Sprintf("the connection to OctoPrint at %s ended (%s); event2mqtt connects again", e.at, e.cause)
}

func (e *lostError) Unwrap() error { return e.cause }

func (s *Source) lost(err error) error { return &lostError{s.settings.url.String(), err} }

// serving is what is known while a connection is worked on.
type serving struct {
	link     *link
	user     string // whose key it is
	ready    bool   // a snapshot came: it is authenticated
	lastAuth time.Time
	reauths  int       // since the last snapshot
	came     time.Time // when the newest frame did that was worked on
	stirred  time.Time // when the newest event came
	throttle int       // as OctoPrint was told last
	armed    bool      // the timer runs
}

const (
	// calm is how long after an event OctoPrint is left to send snapshots as fast
	// as it likes, every half a second; idle is how many such times are between
	// those of a printer that does nothing. Events come at once in any case, and
	// no temperature is left out.
	calm = 10 * time.Second
	idle = 4
)

// pace returns how OctoPrint is to be throttled. Each snapshot wakes the program
// up, also one that says nothing new.
func (c *serving) pace(t *translator, now time.Time) int {
	if t.active || t.catching || t.hole || now.Sub(c.stirred) < calm {
		return 1
	}
	return idle
}

// maxBatch bounds the events that are stored together.
const maxBatch = 64

// serve works on frames until the connection ends.
func (s *Source) serve(ctx context.Context, l *link, login api.Session) error {
	c := &serving{link: l, user: login.Name, lastAuth: time.Now(), came: time.Now(), stirred: time.Now(), throttle: 1, armed: true}
	timer := time.NewTimer(authPatience)
	defer timer.Stop()
	for {
		var r result
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			if !c.ready {
				return fmt.Errorf("OctoPrint at %s takes the login and then tells nothing; the user %s of the API key needs the permission Status", s.settings.url, c.user)
			}
		case in, open := <-l.frames:
			if !open {
				return s.lost(l.err)
			}
			if err := s.burst(ctx, c, in, &r); err != nil {
				return cmp.Or(s.deliver(ctx, r), err) // what came before is told all the same
			}
		}
		now := time.Now()
		if len(l.frames) > 0 { // what is about to come has come already
			now = c.came
		}
		more, next := s.t.tick(now)
		r.join(more)
		if err := s.deliver(ctx, r); err != nil {
			return err
		}
		s.watch(&r, time.Now())
		if !c.ready {
			continue
		}
		if c.armed || !next.IsZero() { // each change of a timer is work
			c.armed = !next.IsZero()
			timer.Reset(until(next))
		}
		if want := c.pace(s.t, now); want != c.throttle {
			c.throttle = want
			if err := l.send(map[string]int{"throttle": want}); err != nil {
				return s.lost(err)
			}
		}
	}
}

// burst works on a frame and on those that have come behind it, and adds to r
// what comes of them: the events of a burst are stored with one sync. r counts
// on error, too.
func (s *Source) burst(ctx context.Context, c *serving, in received, r *result) error {
	for n := 1; ; n++ {
		if err := s.work(ctx, c, in, r); err != nil {
			return err
		}
		if n >= queued || len(c.link.frames) == 0 || len(r.events) >= maxBatch || ctx.Err() != nil {
			return nil
		}
		next, open := <-c.link.frames
		if !open {
			return s.lost(c.link.err)
		}
		in = next
	}
}

// work works on a frame, and adds to r what comes of it.
func (s *Source) work(ctx context.Context, c *serving, in received, r *result) error {
	c.came = in.at
	f, err := decode(in.raw)
	if err != nil {
		s.log.Debug().Err(err).Int("bytes", len(in.raw)).Msg("octoprint: a frame that cannot be read is skipped")
		return nil
	}
	if f.Reauth != "" {
		if c.ready && time.Since(c.lastAuth) < reauthPause {
			return nil
		}
		if c.reauths++; c.reauths > maxReauth {
			return fmt.Errorf("OctoPrint at %s wants ever new logins (%s)", s.settings.url, api.Clean(f.Reauth, maxReason))
		}
		c.lastAuth = time.Now()
		// The login may take long, or fail, which says that OctoPrint is gone.
		if err := s.deliver(ctx, *r); err != nil {
			return err
		}
		s.watch(r, time.Now())
		*r = result{}
		return s.login(ctx, c)
	}
	if f.Event != nil {
		c.stirred = in.at
	}
	r.join(s.t.frame(f, in.at))
	if f.History != nil || f.Current != nil {
		c.reauths = 0
		if !c.ready {
			c.ready = true
			s.up(ctx)
		}
	}
	return nil
}

// until is how long to wait for a time; zero is far away.
func until(t time.Time) time.Duration {
	if t.IsZero() {
		return time.Hour
	}
	return max(0, time.Until(t))
}

// login logs in once more, on the connection that there is.
func (s *Source) login(ctx context.Context, c *serving) error {
	login, err := s.client.Login(ctx)
	if err != nil {
		return s.gone(ctx, err)
	}
	c.user = login.Name
	s.t.authenticate(login.Name, time.Now())
	if err := c.link.send(map[string]string{"auth": login.Auth()}); err != nil {
		return s.lost(err)
	}
	return nil
}

// up tells that the connection does what it is for.
func (s *Source) up(ctx context.Context) {
	s.came, s.shown = time.Now(), nil
	s.present() // commands are passed on once the log says that it is connected
	if s.spoke {
		s.spoke = false
		s.log.Info().Msgf("octoprint: connected to OctoPrint %s at %s", s.t.version, s.settings.url)
	}
	s.name = cmp.Or(s.client.Name(ctx), "OctoPrint")
	s.out.Describe(s.t.describe(s.settings.url, s.name))
	s.tell(s.running())
}

// running is the status of a source that is connected.
func (s *Source) running() health.Status {
	return health.Running(fmt.Sprintf("connected to OctoPrint %s", s.t.version))
}

// received is a frame as it came.
type received struct {
	raw []byte
	at  time.Time // however late it is worked on
}

// link is a connection. Its reader and its pinger end with stop.
type link struct {
	conn   *websocket.Conn
	frames chan received
	err    error // why frames was closed; set before that
	done   chan struct{}
	wg     sync.WaitGroup
	mu     sync.Mutex    // guards writing to conn
	every  time.Duration // pings
	silent time.Duration // is too long
}

func newLink(conn *websocket.Conn) *link {
	return &link{conn: conn, frames: make(chan received, queued), done: make(chan struct{}), every: pingEvery, silent: silence}
}

// start starts the reader and the pinger. When ctx ends the connection is
// closed.
func (l *link) start(ctx context.Context) {
	l.conn.SetReadLimit(maxFrame)
	l.conn.SetPongHandler(func(string) error { return l.conn.SetReadDeadline(time.Now().Add(l.silent)) })
	l.wg.Go(l.read)
	l.wg.Go(func() { l.ping(ctx) })
}

// stop closes the connection and waits for its goroutines.
func (l *link) stop() {
	close(l.done)
	_ = l.conn.Close()
	l.wg.Wait()
}

// read passes frames on. While nobody takes them it does not read.
func (l *link) read() {
	defer close(l.frames)
	for {
		// Anew for each frame: the time that nobody took one does not count.
		if l.err = l.conn.SetReadDeadline(time.Now().Add(l.silent)); l.err != nil {
			return
		}
		kind, raw, err := l.conn.ReadMessage()
		if err != nil {
			l.err = plain(err)
			return
		}
		if kind != websocket.TextMessage {
			continue
		}
		select {
		case l.frames <- received{raw, time.Now()}:
		case <-l.done:
			l.err = context.Canceled
			return
		}
	}
}

// ping asks whether OctoPrint is there, until the connection ends.
func (l *link) ping(ctx context.Context) {
	ticker := time.NewTicker(l.every)
	defer ticker.Stop()
	for {
		select {
		case <-l.done:
			return
		case <-ctx.Done():
			_ = l.conn.Close() // ends the reader
			return
		case <-ticker.C:
			_ = l.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(pingEvery)) // what fails, the reader finds out
		}
	}
}

// send sends messages.
func (l *link) send(messages ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range messages {
		if err := l.conn.SetWriteDeadline(time.Now().Add(pingEvery)); err != nil {
			return err
		}
		if err := l.conn.WriteJSON(m); err != nil {
			return plain(err)
		}
	}
	return nil
}

// plain says in words why a connection has ended.
func plain(err error) error {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return errors.New("nothing came for too long")
	case errors.Is(err, websocket.ErrReadLimit):
		return fmt.Errorf("a frame has more than %d bytes", maxFrame)
	case websocket.IsCloseError(err, websocket.CloseAbnormalClosure):
		return errors.New("it was closed")
	}
	return errors.New(api.Clean(err.Error(), maxReason)) // its text may be OctoPrint's
}
