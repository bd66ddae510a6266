package broker_test

import (
	"net"
	"testing"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// overWebSocket serves b over WebSocket too.
func overWebSocket(t *testing.T, b *broker.Broker) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.OK(t, err)
	done := make(chan struct{})
	go func() { defer close(done); _ = b.ServeWebSocket(l, nil) }()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

// TestIdleConnectionsKeepNobodyOut: neither from their own address nor from
// others, over TCP and WebSocket. The longest idle give way.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	for name, limits := range map[string]broker.Limits{"of an address": {PerAddress: 16, Pending: 64}, "in all": {PerAddress: 64, Pending: 16}} {
		for _, kind := range []string{"TCP", "WebSocket"} {
			t.Run(name+" over "+kind, func(t *testing.T) {
				b, addr := start(t, limits)
				o := mqttest.Options{}
				if kind == "WebSocket" {
					addr = overWebSocket(t, b)
					o.Dial = mqttest.WebSocket("/mqtt", 0, nil, nil)
				}
				first := dial(t, addr, o)
				for range 100 {
					nc, err := net.Dial("tcp", addr)
					testkit.OK(t, err)
					defer nc.Close()
				}
				second := dial(t, addr, o)
				for _, c := range []*mqttest.Client{first, second} {
					testkit.OK(t, c.Quiet())
				}
				testkit.Eventually(t, "two clients are counted", func() bool { return b.Stats().Clients == 2 })
			})
		}
	}
}

func TestClientsGiveWayToNobody(t *testing.T) {
	b, addr := start(t, broker.Limits{PerAddress: 3})
	var clients []*mqttest.Client
	for range 3 {
		clients = append(clients, dial(t, addr, mqttest.Options{}))
	}
	for range 10 {
		if c, err := mqttest.Dial(addr, mqttest.Options{}); err == nil {
			c.Close()
			t.Error("one more was let in")
		}
	}
	for _, c := range clients {
		testkit.OK(t, c.Quiet())
	}
	testkit.OK(t, clients[0].Disconnect())
	testkit.Eventually(t, "it has left", func() bool { return b.Stats().Clients == 2 })
	dial(t, addr, mqttest.Options{})
}
