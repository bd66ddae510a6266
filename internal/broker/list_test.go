package broker_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// TestClientsAreListedAndKicked: what each is, and that its connection ends with
// reason 0x98 where the protocol has reasons.
func TestClientsAreListedAndKicked(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	a := dial(t, addr, mqttest.Options{ID: "a", Version: wire.V5, KeepAlive: 60})
	dial(t, addr, mqttest.Options{ID: "b"})
	for i := range 150 {
		subscribe(t, a, fmt.Sprintf("x/%03d", i), 0)
	}
	subscribe(t, a, "$share/group/y", 0)
	list := b.Clients()
	if len(list) != 2 || list[0].ID != "a" || list[1].ID != "b" {
		t.Fatalf("%+v", list)
	}
	one := list[0]
	if one.Version != 5 || one.KeepAlive != time.Minute || one.Subscriptions != 151 || len(one.Filters) != 100 || !slices.IsSorted(one.Filters) || !strings.HasPrefix(one.Address, "127.0.0.1:") || time.Since(one.Since) > time.Minute || list[1].Version != 4 {
		t.Errorf("%+v, %+v", one, list[1])
	}
	if n := b.Stats().Shared; n != 1 {
		t.Errorf("%d shared subscriptions", n)
	}
	if b.Kick("a", "somebody else") || b.Kick("none", "") {
		t.Error("a client that is not there was kicked")
	}
	if !b.Kick("a", "") {
		t.Error("it was not kicked")
	}
	body, err := a.Expect(wire.DISCONNECT)
	testkit.OK(t, err)
	if d, err := wire.DecodeDisconnect(wire.V5, body); err != nil || d.Code != wire.AdministrativeAction {
		t.Errorf("0x%02x %v", byte(d.Code), err)
	}
	testkit.Eventually(t, "it is gone", func() bool { return len(b.Clients()) == 1 })
}

// TestRetainedMessagesAreListedAndRemoved, as a client would remove them.
func TestRetainedMessagesAreListedAndRemoved(t *testing.T) {
	b, addr := startWith(t, broker.Options{SysInterval: time.Hour})
	for _, topic := range []string{"b/2", "a/1", "b/1", "bb"} {
		testkit.OK(t, publish(b, &broker.Message{Topic: topic, Payload: []byte("v"), Retain: true}))
	}
	list := func(prefix string) (topics []string) {
		b.Retained(prefix, func(d broker.Delivery) bool {
			topics = append(topics, d.Topic)
			return len(topics) < 3
		})
		return topics
	}
	if got := list(""); fmt.Sprint(got) != "[a/1 b/1 b/2]" {
		t.Errorf("%v", got)
	}
	if got := list("b/"); fmt.Sprint(got) != "[b/1 b/2]" {
		t.Errorf("%v", got)
	}
	testkit.Eventually(t, "those of $SYS are there for who asks", func() bool { return len(list("$SYS/")) == 3 })
	c := dial(t, addr, mqttest.Options{ID: "c"})
	subscribe(t, c, "b/1", 0)
	next(t, c)
	for _, want := range []bool{true, false} {
		if ok, err := b.Unretain(t.Context(), "b/1"); ok != want || err != nil {
			t.Errorf("removed %t, %v; want %t", ok, err, want)
		}
	}
	if m := next(t, c); m.Topic != "b/1" || len(m.Payload) != 0 {
		t.Errorf("subscribers get %+v", m)
	}
	if got := list("b/"); fmt.Sprint(got) != "[b/2]" {
		t.Errorf("%v", got)
	}
}
