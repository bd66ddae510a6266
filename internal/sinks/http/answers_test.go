package httpsink_test

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/health"
	httpsink "event2mqtt/internal/sinks/http"
	"event2mqtt/internal/testkit"
)

// quick has the sink try again soon.
func quick(o *httpsink.Options) {
	o.SetPauses(time.Millisecond, 10*time.Millisecond, 20*time.Millisecond)
}

// TestWhatAnswersMean, as the table of docs/http-sink.md has it: the event is
// sent again, with the same key, and arrives in its order; or it is refused, and
// the next one comes.
func TestWhatAnswersMean(t *testing.T) {
	for _, c := range []struct {
		status       int
		again, wrong bool
		advice       string
	}{
		{status: 200}, {status: 201}, {status: 202}, {status: 204}, {status: 299},
		{status: 408, again: true}, {status: 425, again: true}, {status: 429, again: true}, {status: 500, again: true}, {status: 502, again: true},
		{status: 503, again: true}, {status: 504, again: true}, {status: 599, again: true}, {status: 999, again: true},
		{status: 301, wrong: true, advice: "correct url"}, {status: 304, wrong: true, advice: "correct url"}, {status: 308, wrong: true, advice: "correct url"},
		{status: 401, wrong: true, advice: "correct username"}, {status: 403, wrong: true, advice: "the right to send"}, {status: 404, wrong: true, advice: "correct url"},
		{status: 405, wrong: true, advice: "correct method"}, {status: 407, wrong: true, advice: "proxy"}, {status: 410, wrong: true, advice: "remove this sink"},
		{status: 400}, {status: 402}, {status: 406}, {status: 409}, {status: 413}, {status: 414}, {status: 415}, {status: 418}, {status: 422}, {status: 431}, {status: 451},
	} {
		t.Run(fmt.Sprint(c.status), func(t *testing.T) {
			r := newRig(t, quick, func(w http.ResponseWriter, _ *http.Request, n int) {
				if n < 1 || c.again && n < 4 || c.wrong && n < 3 {
					w.WriteHeader(c.status)
				}
			})
			r.numbered(2)
			r.delivered()
			got, want, kept := r.names(), "E0 E1", len(r.kept())
			switch {
			case c.again:
				want = "E0 E0 E0 E0 E0 E1"
			case c.wrong:
				want = "E0 E0 E0 E0 E1"
			}
			if refused := c.status >= 400 && !c.again && !c.wrong; got != want || refused != (kept == 1) {
				t.Errorf("sent %s, want %s; %d are refused", got, want, kept)
			}
			keys := map[string]bool{}
			for _, q := range r.requests() {
				keys[q.Header.Get("Idempotency-Key")] = true
			}
			if len(keys) != 2 {
				t.Errorf("two events have the keys %v", keys)
			}
			testkit.Eventually(t, "it tells that it works", func() bool { return r.level() == health.Up })
			log := r.log.String()
			if told := strings.Count(log, `"level":"warn"`) + strings.Count(log, `"level":"error"`); told > 1 || (told == 1) != (c.status >= 300) || !strings.Contains(log, c.advice) {
				t.Errorf("it is told %d times: %s", told, log)
			}
			if again := strings.Contains(log, "takes events again"); again != (c.again || c.wrong) {
				t.Errorf("that it works again is told: %t", again)
			}
		})
	}
}

// TestRetryAfterIsObeyed, in seconds, as a date, and in the bodies of Discord and
// Telegram: nothing is sent before.
func TestRetryAfterIsObeyed(t *testing.T) {
	for _, c := range []struct {
		name, header, body string
		least              time.Duration
	}{
		{"seconds", "1", "", time.Second},
		{"a date", "date", "", time.Second},
		{"Discord", "", `{"message": "You are being rate limited.", "retry_after": 0.9, "global": false}`, 900 * time.Millisecond},
		{"Telegram", "", `{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 1","parameters":{"retry_after":1}}`, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, quick, func(w http.ResponseWriter, _ *http.Request, n int) {
				if n > 0 {
					return
				}
				switch c.header {
				case "":
				case "date": // whole seconds
					w.Header().Set("Retry-After", time.Now().Add(2*time.Second).UTC().Format(http.TimeFormat))
				default:
					w.Header().Set("Retry-After", c.header)
				}
				w.WriteHeader(http.StatusTooManyRequests)
				fmt.Fprint(w, c.body)
			})
			r.numbered(2)
			r.delivered()
			all := r.requests()
			if waited := all[1].at.Sub(all[0].at); len(all) != 3 || waited < c.least-time.Millisecond {
				t.Errorf("%d requests; the second came after %s", len(all), waited)
			}
		})
	}
}

// TestServersThatMisbehave are waited for, and take no memory and no event.
func TestServersThatMisbehave(t *testing.T) {
	reset := func(w http.ResponseWriter, before string) {
		conn, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = buf.WriteString(before)
		_ = buf.Flush()
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	for _, c := range []struct {
		name  string
		again bool // the first request is sent again
		bad   func(w http.ResponseWriter, r *http.Request)
	}{
		{"resets before an answer", true, func(w http.ResponseWriter, _ *http.Request) { reset(w, "") }},
		{"resets in a header", true, func(w http.ResponseWriter, _ *http.Request) { reset(w, "HTTP/1.1 200 OK\r\nContent-Le") }},
		{"resets in a body behind 200", false, func(w http.ResponseWriter, _ *http.Request) {
			reset(w, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")
		}},
		{"is no HTTP", true, func(w http.ResponseWriter, _ *http.Request) { reset(w, "220 mail.example ESMTP\r\n") }},
		{"hangs", true, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"switches protocols", true, func(w http.ResponseWriter, r *http.Request) {
			conn, buf, _ := w.(http.Hijacker).Hijack()
			_, _ = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			_ = buf.Flush()
			_, _ = conn.Read(make([]byte, 1)) // until the sink closes it
			_ = conn.Close()
		}},
		{"sends a header byte by byte", true, func(w http.ResponseWriter, r *http.Request) {
			conn, buf, _ := w.(http.Hijacker).Hijack()
			defer conn.Close()
			for {
				if _, err := buf.WriteString("HTTP/1.1 200 OK\r\n"[:1]); err != nil || buf.Flush() != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}},
		{"sends a body byte by byte", false, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte("x"))
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}},
		{"sends a body without end", false, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 64<<10))
			}
		}},
		{"sends a body without end behind 503", true, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(503)
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(strings.Repeat("no ", 10<<10)))
			}
		}},
		{"sends a header without end", true, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 1<<20))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(o *httpsink.Options) { quick(o); o.Timeout = 3 * time.Second }, func(w http.ResponseWriter, q *http.Request, n int) {
				if n == 0 {
					c.bad(w, q)
				}
			})
			r.numbered(2)
			r.delivered()
			want := "E0 E1"
			if c.again {
				want = "E0 E0 E1"
			}
			if got := r.names(); got != want || len(r.kept()) > 0 {
				t.Errorf("sent %s, want %s", got, want)
			}
			if len(r.log.String()) > 2000 {
				t.Errorf("logged %d bytes", len(r.log.String()))
			}
		})
	}
}

// TestRedirectsAreNotFollowed: the other host gets nothing, and is named.
func TestRedirectsAreNotFollowed(t *testing.T) {
	var reached atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer other.Close()
	r := newRig(t, func(o *httpsink.Options) { quick(o); o.Token = "secret-token" }, func(w http.ResponseWriter, q *http.Request, n int) {
		if n < 3 {
			http.Redirect(w, q, other.URL+"/hidden-path", http.StatusTemporaryRedirect)
		}
	})
	r.numbered(1)
	r.delivered()
	if log := r.log.String(); reached.Load() > 0 || !strings.Contains(log, other.URL) || strings.Contains(log, "hidden-path") {
		t.Errorf("the other host was reached %d times; told %s", reached.Load(), log)
	}
}

// TestABatchThatIsRefusedIsHalved until the event is found that is to blame; all
// others arrive, in order.
func TestABatchThatIsRefusedIsHalved(t *testing.T) {
	var open atomic.Bool
	r := newRig(t, func(o *httpsink.Options) { quick(o); o.Batch.Events = 16 }, nil)
	r.stop()
	r.server.Config.Handler = nil
	p := &place{batch: 16}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !open.Load() {
			w.WriteHeader(503)
			return
		}
		p.ServeHTTP(w, q)
	}))
	defer server.Close()
	r.options.URL = config.Secret(server.URL)
	r.run()
	for i := range 40 {
		text := "fine"
		if i == 3 || i == 20 || i == 21 {
			text = "poison"
		}
		r.emit(fmt.Sprintf("E%d", i), fmt.Sprintf(`{"x":%q}`, text))
	}
	open.Store(true)
	r.delivered()
	var names, refused []string
	for _, payload := range p.Got() {
		_, rest, _ := strings.Cut(string(payload), `"_event":"`)
		name, _, _ := strings.Cut(rest, `"`)
		names = append(names, name)
	}
	for _, e := range r.kept() {
		refused = append(refused, e.Name)
	}
	want := ""
	for i := range 40 {
		if i != 3 && i != 20 && i != 21 {
			want += fmt.Sprintf("E%d ", i)
		}
	}
	if got := strings.Join(names, " ") + " "; got != want || strings.Join(refused, " ") != "E3 E20 E21" {
		t.Errorf("got %s; refused %s", got, refused)
	}
}

// TestTheRateHoldsAfterAnOutage: never more requests than it says, counted from
// when the destination is back, however many events wait.
func TestTheRateHoldsAfterAnOutage(t *testing.T) {
	const each, burst, events = 20 * time.Millisecond, 5, 60
	var back atomic.Int64
	r := newRig(t, func(o *httpsink.Options) { quick(o); o.Rate, o.Burst = "50/s", burst }, func(w http.ResponseWriter, _ *http.Request, _ int) {
		if back.Load() == 0 {
			w.WriteHeader(503)
		}
	})
	began := time.Now()
	r.numbered(events)
	testkit.Eventually(t, "it waits", func() bool { return r.level() == health.Waiting })
	time.Sleep(200 * time.Millisecond) // for tokens that must not be saved
	back.Store(1)
	r.delivered()
	for i, q := range r.requests() { // what came since the start bounds them all
		if most := burst + int(q.at.Sub(began)/each) + 1; i+1 > most {
			t.Fatalf("%d requests came within %s; at most %d may", i+1, q.at.Sub(began), most)
		}
	}
}
