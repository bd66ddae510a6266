package retry_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"event2mqtt/internal/retry"
)

var errAway = errors.New("away")

// TestThePauseDoublesUpToItsBound, with half of it at random.
func TestThePauseDoublesUpToItsBound(t *testing.T) {
	for _, c := range []struct {
		name        string
		loop        retry.Loop
		least, most time.Duration
	}{
		{"defaults", retry.Loop{}, retry.DefaultMin, retry.DefaultMax},
		{"its own bounds", retry.Loop{Min: 10 * time.Millisecond, Max: time.Second}, 10 * time.Millisecond, time.Second},
		{"less than it begins with", retry.Loop{Max: time.Millisecond}, time.Millisecond, time.Millisecond},
		{"so long that doubling overflows", retry.Loop{Min: 100 * time.Hour, Max: 1000 * time.Hour}, 100 * time.Hour, 1000 * time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			want, pauses := c.least, map[time.Duration]bool{}
			for i := range 100 {
				pause, _ := c.loop.Next(errAway, 0)
				if pause < want/2 || pause > want {
					t.Fatalf("failure %d: the pause is %s, want between %s and %s", i, pause, want/2, want)
				}
				if want == c.most {
					pauses[pause] = true
				}
				want = min(2*want, c.most)
			}
			if len(pauses) < 10 {
				t.Errorf("the longest pause took %d values only: there is no jitter", len(pauses))
			}
			if n := c.loop.Failures(); n != 100 {
				t.Errorf("it counts %d failures", n)
			}
		})
	}
}

// TestASteadySessionForgetsTheFailuresBefore, and a shorter one does not.
func TestASteadySessionForgetsTheFailuresBefore(t *testing.T) {
	for _, c := range []struct {
		name   string
		loop   retry.Loop
		lasted time.Duration
		forget bool
	}{
		{"as long as the longest pause", retry.Loop{}, retry.DefaultMax, true},
		{"a little less", retry.Loop{}, retry.DefaultMax - 1, false},
		{"as long as is set", retry.Loop{Steady: time.Second}, time.Second, true},
		{"less than is set", retry.Loop{Steady: time.Second}, time.Second - 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 5 {
				c.loop.Next(errAway, 0)
			}
			pause, fresh := c.loop.Next(errAway, c.lasted)
			if short := pause <= retry.DefaultMin; short != c.forget || fresh != c.forget {
				t.Errorf("the pause is %s, news: %v", pause, fresh)
			}
		})
	}
}

// TestEachNewCauseIsToldOnce, also when two take turns, and again only after
// they were forgotten.
func TestEachNewCauseIsToldOnce(t *testing.T) {
	var l retry.Loop
	other := errors.New("refused")
	for i, step := range []struct {
		err   error
		fresh bool
	}{{errAway, true}, {errAway, false}, {other, true}, {errAway, false}, {other, false}, {nil, true}, {nil, false}} {
		if _, fresh := l.Next(step.err, 0); fresh != step.fresh {
			t.Errorf("step %d, %v: news: %v", i, step.err, fresh)
		}
	}
	l.Reset()
	if _, fresh := l.Next(errAway, 0); !fresh || l.Failures() != 1 {
		t.Errorf("after a reset: news: %v, failures: %d", fresh, l.Failures())
	}
}

// TestALoopRemembersAFewCausesOnly: a peer may answer with another text each
// time, without end.
func TestALoopRemembersAFewCausesOnly(t *testing.T) {
	var l retry.Loop
	l.Next(errAway, 0)
	for i := range 1000 {
		if _, fresh := l.Next(fmt.Errorf("text %d", i), 0); !fresh {
			t.Fatalf("text %d is not news", i)
		}
	}
	if _, fresh := l.Next(errAway, 0); !fresh {
		t.Error("a cause of long ago is remembered for ever")
	}
}

// TestACauseIsTheSameFromEveryPort: each connection has another port at this end.
func TestACauseIsTheSameFromEveryPort(t *testing.T) {
	reset := func(port int, peer string) error {
		at := func(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }
		return fmt.Errorf("read a line: %w", &net.OpError{
			Op: "read", Net: "tcp", Source: at("192.0.2.1", port), Addr: at(peer, 9000), Err: os.NewSyscallError("read", syscall.ECONNRESET),
		})
	}
	a, b, other := retry.Cause(reset(40000, "192.0.2.7")), retry.Cause(reset(40001, "192.0.2.7")), retry.Cause(reset(40000, "192.0.2.8"))
	if a != b || a == other {
		t.Errorf("%q, %q and %q", a, b, other)
	}
	if want := "read a line: read tcp 192.0.2.7:9000: read: connection reset by peer"; a != want {
		t.Errorf("got %q, want %q", a, want)
	}
	dns := func(port int) error {
		return &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{
			Name: "printer.lan", Server: "127.0.0.53:53", Err: fmt.Sprintf("read udp 127.0.0.1:%d->127.0.0.53:53: i/o timeout", port), IsTimeout: true,
		}}
	}
	if a, b := retry.Cause(dns(1)), retry.Cause(dns(2)); a != b || a == "" {
		t.Errorf("%q and %q", a, b)
	}
	if retry.Cause(nil) != "" || retry.Cause(errAway) != "away" {
		t.Error("other errors do not keep their text")
	}
}

// TestALoopRunsUntilItsContextEnds, with pauses between the sessions, and tells
// of each failure.
func TestALoopRunsUntilItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var begun []time.Duration
		var fresh []bool
		start := time.Now()
		l := retry.Loop{Failed: func(err error, is bool, pause time.Duration) {
			if !errors.Is(err, errAway) || pause <= 0 {
				t.Errorf("told of %v and a pause of %s", err, pause)
			}
			fresh = append(fresh, is)
		}}
		err := l.Run(ctx, func(ctx context.Context) error {
			begun = append(begun, time.Since(start))
			switch len(begun) {
			case 4:
				time.Sleep(2 * retry.DefaultMax) // steady
			case 6:
				cancel()
				return nil
			}
			return errAway
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
		if want := []bool{true, false, false, true, false}; !slices.Equal(fresh, want) {
			t.Errorf("news: %v, want %v", fresh, want)
		}
		for i, most := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			if pause := begun[i+1] - begun[i]; pause < most/2 || pause > most {
				t.Errorf("session %d began %s after the one before", i+1, pause)
			}
		}
		if pause := begun[4] - begun[3] - 2*retry.DefaultMax; pause > time.Second {
			t.Errorf("after a steady session it paused for %s", pause)
		}
	})
}

func TestAPauseEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if retry.Sleep(ctx, time.Hour) || time.Since(began) != time.Second {
			t.Errorf("it slept for %s", time.Since(began))
		}
		if !retry.Sleep(t.Context(), time.Hour) {
			t.Error("it did not sleep")
		}
	})
}
