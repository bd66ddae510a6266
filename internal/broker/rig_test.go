package broker_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// This file is what tests of the whole broker begin with.

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a broker on a free port until the test ends.
func start(t testing.TB, limits broker.Limits) (*broker.Broker, string) {
	t.Helper()
	return startWith(t, broker.Options{Limits: limits})
}

// startWith is start with more options.
func startWith(t testing.TB, o broker.Options) (*broker.Broker, string) {
	t.Helper()
	b, err := broker.New(o)
	testkit.OK(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Serve(l) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		b.Close(ctx)
		wg.Wait()
	})
	return b, l.Addr().String()
}

func dial(t testing.TB, addr string, o mqttest.Options) *mqttest.Client {
	t.Helper()
	c, err := mqttest.Dial(addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	return c
}

// publish publishes from inside the program.
func publish(b *broker.Broker, m *broker.Message) error {
	_, err := b.Publish(context.Background(), m)
	return err
}

func subscribe(t testing.TB, c *mqttest.Client, filter string, options byte, props ...byte) {
	t.Helper()
	code, err := c.Subscribe(filter, options, props...)
	if err != nil || code >= wire.Unspecified {
		t.Fatalf("subscribe %s: code 0x%02x, %v", filter, byte(code), err)
	}
}

func next(t testing.TB, c *mqttest.Client) wire.Publish {
	t.Helper()
	p, err := c.Next()
	testkit.OK(t, err)
	return p
}

var versions = map[string]byte{"3.1": wire.V31, "3.1.1": wire.V311, "5": wire.V5}
