package mqtt

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/certtest"
)

// scripted is a network connection whose writes take as long as the test wants.
type scripted struct {
	net.Conn
	begun chan int   // the size of each write, when it begins
	step  chan error // how it ends
	quiet atomic.Bool
}

func (s *scripted) Write(p []byte) (int, error) {
	if s.quiet.Load() {
		return s.Conn.Write(p)
	}
	s.begun <- len(p)
	if err := <-s.step; err != nil {
		return 0, err
	}
	return s.Conn.Write(p)
}

// script returns a connection, what its network does, and the peer's end.
func script(t testing.TB, timeout time.Duration) (c *conn, s *scripted, peer net.Conn) {
	near, far := tcpPair(t)
	s = &scripted{Conn: near, begun: make(chan int, 100), step: make(chan error, 100)}
	return newConn(s, timeout, func(string, int) {}), s, far
}

func tcpPair(t testing.TB) (near, far net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.OK(t, err)
	defer l.Close()
	near, err = net.Dial("tcp", l.Addr().String())
	testkit.OK(t, err)
	far, err = l.Accept()
	testkit.OK(t, err)
	t.Cleanup(func() { near.Close(); far.Close() })
	_ = far.SetDeadline(time.Now().Add(30 * time.Second))
	return near, far
}

func packet(payload string) []byte {
	return wire.AppendPublish(nil, wire.V311, &wire.Publish{Topic: "t", Payload: []byte(payload)})
}

func mustWrite(t testing.TB, c *conn, p []byte) {
	t.Helper()
	if n, err := c.Write(p); err != nil || n != len(p) {
		t.Errorf("wrote %d of %d: %v", n, len(p), err)
	}
}

// TestWhatComesDuringAWriteGoesOutWithTheNext, in the order it came, and the
// first does not wait for it.
func TestWhatComesDuringAWriteGoesOutWithTheNext(t *testing.T) {
	c, s, peer := script(t, time.Minute)
	defer c.Close()
	want := packet("first")
	mustWrite(t, c, want)
	if n := <-s.begun; n != len(want) {
		t.Fatalf("%d bytes went out, not the %d of the first", n, len(want))
	}
	for i := range 100 {
		p := packet(string(rune('a' + i%26)))
		mustWrite(t, c, p)
		want = append(want, p...)
	}
	if n := c.published.Load(); n != 101 {
		t.Errorf("%d count as handed over, want 101", n)
	}
	first := len(packet("first"))
	s.step <- nil
	if n := <-s.begun; n != len(want)-first {
		t.Errorf("the second write has %d bytes, want the other %d", n, len(want)-first)
	}
	s.step <- nil
	got := make([]byte, len(want))
	_, err := io.ReadFull(peer, got)
	testkit.OK(t, err)
	if !bytes.Equal(got, want) {
		t.Error("other bytes arrived")
	}
}

// TestAPeerThatReadsNothingIsPushedBackOn: what is kept for it is bounded, and
// nothing of it is lost.
func TestAPeerThatReadsNothingIsPushedBackOn(t *testing.T) {
	c, s, peer := script(t, time.Minute)
	defer c.Close()
	p := packet(string(make([]byte, 1000)))
	const count = 500
	var wg sync.WaitGroup
	wg.Go(func() {
		for range count {
			mustWrite(t, c, p)
		}
	})
	<-s.begun // of what was there first; the rest has to wait
	bounded := func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.pending) == gatherMost
	}
	testkit.Eventually(t, "the buffer is full", bounded)
	s.quiet.Store(true)
	s.step <- nil
	n, err := io.CopyN(io.Discard, peer, int64(count*len(p)))
	if err != nil {
		t.Errorf("%d of %d bytes arrived: %v", n, count*len(p), err)
	}
	wg.Wait()
}

// TestAFailedWriteEndsTheConnection, and both who writes and who reads is told
// why.
func TestAFailedWriteEndsTheConnection(t *testing.T) {
	c, s, peer := script(t, time.Minute)
	defer c.Close()
	mustWrite(t, c, packet("first"))
	<-s.begun
	mustWrite(t, c, packet("second"))
	s.step <- nil
	<-s.begun
	broken := errors.New("cable cut")
	s.step <- broken
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, broken) {
		t.Errorf("Read: %v", err)
	}
	before := c.published.Load()
	if _, err := c.Write(packet("third")); !errors.Is(err, broken) {
		t.Errorf("Write: %v", err)
	}
	if c.published.Load() != before+1 {
		t.Error("one that could not be handed over is waited for")
	}
	if err := c.ping(t.Context(), nil); !errors.Is(err, broken) {
		t.Errorf("ping: %v", err)
	}
	got, err := io.ReadAll(peer)
	testkit.OK(t, err)
	if !bytes.Equal(got, packet("first")) {
		t.Errorf("got % x", got)
	}
}

// TestAWriteThatTakesTooLongEndsTheConnection: the time-out is that of a chunk.
func TestAWriteThatTakesTooLongEndsTheConnection(t *testing.T) {
	near, _ := tcpPair(t)
	c := newConn(near, 50*time.Millisecond, func(string, int) {})
	defer c.Close()
	p := packet(string(make([]byte, 1<<20)))
	var err error
	for range 100 {
		if _, err = c.Write(p); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if c.moved.Load() == 0 {
		t.Error("nothing has moved")
	}
}

// TestCloseEndsWhatWaits, also in the middle of a write.
func TestCloseEndsWhatWaits(t *testing.T) {
	near, _ := tcpPair(t) // nobody reads
	c := newConn(near, time.Minute, func(string, int) {})
	var wg sync.WaitGroup
	var failed error
	wg.Go(func() {
		for failed == nil {
			_, failed = c.Write(packet(string(make([]byte, 1<<20))))
		}
	})
	testkit.Eventually(t, "the buffer is full", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.pending) == gatherMost
	})
	_ = c.Close()
	wg.Wait()
	if !errors.Is(failed, net.ErrClosed) {
		t.Errorf("Write: %v", failed)
	}
	if c.writing {
		t.Error("the goroutine that writes is still there")
	}
}

// TestADisconnectIsOutWhenItsWriteReturns, behind all that was handed over.
func TestADisconnectIsOutWhenItsWriteReturns(t *testing.T) {
	c, s, peer := script(t, time.Minute)
	mustWrite(t, c, packet("first"))
	<-s.begun
	mustWrite(t, c, packet("second"))
	goodbye := []byte{disconnect << 4, 0}
	var wg sync.WaitGroup
	var returned atomic.Bool
	wg.Go(func() {
		mustWrite(t, c, goodbye)
		returned.Store(true)
		_ = c.Close()
	})
	rest := len(packet("second")) + len(goodbye)
	testkit.Eventually(t, "it waits", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.pending) == rest
	})
	s.step <- nil
	if n := <-s.begun; n != rest {
		t.Errorf("%d bytes go out, not %d", n, rest)
	}
	if returned.Load() {
		t.Error("it returned before it was out")
	}
	s.step <- nil
	wg.Wait()
	got, err := io.ReadAll(peer)
	testkit.OK(t, err)
	if want := append(append(packet("first"), packet("second")...), goodbye...); !bytes.Equal(got, want) {
		t.Errorf("got % x, want % x", got, want)
	}
}

// TestPacketsAreNotMixed: large ones go out in parts, and pings come between
// whole ones only.
func TestPacketsAreNotMixed(t *testing.T) {
	near, far := tcpPair(t)
	c := newConn(near, time.Minute, func(string, int) {})
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 20 {
			mustWrite(t, c, packet(string(make([]byte, 100<<10))))
		}
	})
	wg.Go(func() {
		for range 20 {
			mustWrite(t, c, []byte{pingreq << 4, 0})
		}
	})
	go func() {
		wg.Wait()
		mustWrite(t, c, []byte{disconnect << 4, 0})
		_ = c.Close()
	}()
	r := wire.NewReader(far, 1<<20)
	count := map[wire.Type]int{}
	for {
		header, body, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		testkit.OK(t, err)
		count[wire.Type(header>>4)]++
		if wire.Type(header>>4) == wire.PUBLISH && len(body) != 3+100<<10 {
			t.Fatalf("a message has %d bytes", len(body))
		}
	}
	if count[wire.PUBLISH] != 20 || count[wire.PINGREQ] != 20 || len(count) != 3 {
		t.Errorf("got %v", count)
	}
}

// BenchmarkWrite writes one message after the other: straight to the network,
// and gathered.
func BenchmarkWrite(b *testing.B) {
	cert, err := tls.LoadX509KeyPair(certtest.New(b).Issue("bench", nil))
	testkit.OK(b, err)
	p := packet(string(make([]byte, 256)))
	for _, secure := range []string{"tcp", "tls"} {
		for _, way := range []string{"straight", "gathered"} {
			b.Run(secure+"/"+way, func(b *testing.B) {
				near, far := tcpPair(b)
				_ = far.SetDeadline(time.Time{})
				if secure == "tls" {
					near = tls.Client(near, &tls.Config{InsecureSkipVerify: true})
					far = tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}})
				}
				go func() { _, _ = io.Copy(io.Discard, far) }()
				var w io.Writer = near
				if way == "gathered" {
					w = newConn(near, time.Minute, func(string, int) {})
				}
				b.SetBytes(int64(len(p)))
				for b.Loop() {
					if _, err := w.Write(p); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// TestHeldMessagesGoOutTogether when they are released, and at once when they are
// many, or when something else comes that does not wait.
func TestHeldMessagesGoOutTogether(t *testing.T) {
	subscribe := wire.AppendSubscribe(nil, wire.V311, &wire.Subscribe{PacketID: 1, Filters: []wire.Filter{{Filter: "t"}}})
	for name, tt := range map[string]struct {
		packets [][]byte
		release bool
	}{
		"released":          {[][]byte{packet("a"), packet("b"), packet("c")}, true},
		"a request":         {[][]byte{packet("a"), packet("b"), subscribe}, false},
		"as much as a lot":  {[][]byte{packet("a"), packet(string(make([]byte, writeChunk)))}, false},
		"released and held": {[][]byte{packet("a")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			c, s, peer := script(t, time.Minute)
			defer c.Close()
			s.quiet.Store(true)
			c.hold()
			var want []byte
			for _, p := range tt.packets {
				mustWrite(t, c, p)
				want = append(want, p...)
			}
			if c.gatherer.mu.Lock(); tt.release && len(c.pending) != len(want) {
				t.Errorf("%d bytes wait, want all %d", len(c.pending), len(want))
			}
			c.gatherer.mu.Unlock()
			if tt.release {
				c.release()
				c.hold() // what was released is not held again
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(peer, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("not all of it came, or in another order: %v", err)
			}
		})
	}
}
