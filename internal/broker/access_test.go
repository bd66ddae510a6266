package broker_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// house is a broker with accounts in a file.
type house struct {
	t        testing.TB
	b        *broker.Broker
	addr     string
	file     accounts.File
	accounts *accounts.Accounts
}

func newHouse(t testing.TB, allow map[string][]string) *house {
	t.Helper()
	return newHouseWith(t, allow, broker.Options{Folder: journal.DirFS(t.TempDir())})
}

func newHouseWith(t testing.TB, allow map[string][]string, o broker.Options) *house {
	t.Helper()
	h := &house{t: t, file: accounts.File(filepath.Join(t.TempDir(), "accounts.json"))}
	h.set(allow)
	var err error
	h.accounts, err = accounts.New(accounts.Options{File: h.file, Delay: time.Millisecond, Failures: 1000})
	testkit.OK(t, err)
	o.Accounts = h.accounts
	h.b, h.addr = startWith(t, o)
	return h
}

// set replaces the accounts: names with their rules. The password is the name.
func (h *house) set(allow map[string][]string) {
	h.t.Helper()
	testkit.OK(h.t, h.file.Update(func(old []accounts.User) (users []accounts.User, _ error) {
		for name, rules := range allow {
			hash := accounts.PlainHash(name)
			users = append(users, accounts.User{Name: name, Hash: hash, Allow: rules})
		}
		return users, nil
	}))
	if h.b != nil {
		_, err := h.accounts.Reload()
		testkit.OK(h.t, err)
		h.b.AccountsChanged()
	}
}

func (h *house) dial(user string, o mqttest.Options) *mqttest.Client {
	h.t.Helper()
	o.User, o.Password = user, user
	if o.Version == 0 {
		o.Version = wire.V5
	}
	return dial(h.t, h.addr, o)
}

func TestUsersDoWhatTheirRulesAllow(t *testing.T) {
	h := newHouse(t, map[string][]string{"all": {"#:rw"}, "ann": {"ann/#:rw", "news/#:r", "ann/secret:deny"}, "none": nil})
	all, ann := h.dial("all", mqttest.Options{}), h.dial("ann", mqttest.Options{})
	for topic, want := range map[string]wire.Code{"ann/x": 0, "news/x": wire.NotAuthorized, "ann/secret": wire.NotAuthorized, "bob/x": wire.NotAuthorized} {
		testkit.OK(t, ann.Send(wire.Publish{Topic: topic, QoS: 1, PacketID: 1}))
		body, err := ann.Expect(wire.PUBACK)
		testkit.OK(t, err)
		if code := wire.Code(codeOf(body)); code != want {
			t.Errorf("publish %s: 0x%02x", topic, byte(code))
		}
	}
	for filter, want := range map[string]wire.Code{"#": 0, "ann/+": 0, "bob/#": wire.NotAuthorized, "ann/secret": wire.NotAuthorized, "$share/g/bob/x": wire.NotAuthorized, "$share/g/news/x": 0} {
		if code, err := ann.Subscribe(filter, 0); err != nil || code != want {
			t.Errorf("subscribe %s: 0x%02x, %v", filter, byte(code), err)
		}
		testkit.OK(t, ann.Unsubscribe(filter))
	}
	// A wide subscription receives what may be read, retained or live.
	testkit.OK(t, all.Publish(wire.Publish{Topic: "ann/secret", Payload: []byte("x"), Retain: true, QoS: 1}))
	testkit.OK(t, all.Publish(wire.Publish{Topic: "news/x", Payload: []byte("kept"), Retain: true, QoS: 1}))
	subscribe(t, ann, "#", 0)
	if m := next(t, ann); m.Topic != "news/x" {
		t.Errorf("got %+v", m)
	}
	for _, topic := range []string{"ann/secret", "bob/x", "news/y"} {
		testkit.OK(t, all.Publish(wire.Publish{Topic: topic, Payload: []byte("live"), QoS: 1}))
	}
	if m := next(t, ann); m.Topic != "news/y" {
		t.Errorf("got %+v", m)
	}
	testkit.OK(t, ann.Quiet())
	// A share does not swallow what a member may not read.
	subscribe(t, ann, "$share/g/#", 0)
	subscribe(t, all, "$share/g/#", 0)
	testkit.OK(t, ann.Unsubscribe("#"))
	p := h.dial("all", mqttest.Options{})
	for range 4 {
		testkit.OK(t, p.Publish(wire.Publish{Topic: "bob/x", Payload: []byte("x"), QoS: 1}))
		next(t, all)
	}
	none := h.dial("none", mqttest.Options{})
	if code, err := none.Subscribe("#", 0); err != nil || code != wire.NotAuthorized {
		t.Errorf("without rules: 0x%02x, %v", byte(code), err)
	}
	if h.b.Stats().Denied == 0 {
		t.Error("nothing was counted")
	}
}

func TestWillsObeyTheRulesOfTheMomentTheyAreSent(t *testing.T) {
	h := newHouse(t, map[string][]string{"all": {"#:rw"}, "ann": {"ann/#:rw"}})
	will := func(topic string) mqttest.Options {
		return mqttest.Options{User: "ann", Password: "ann", Will: &wire.Publish{Topic: topic, Payload: []byte("gone")}}
	}
	if _, _, code, err := mqttest.Connect(h.addr, will("bob/x")); err != nil || code != 5 {
		t.Errorf("a will that is not allowed: code %d, %v", code, err)
	}
	all := h.dial("all", mqttest.Options{})
	subscribe(t, all, "#", 0)
	c := dial(t, h.addr, will("ann/x"))
	h.set(map[string][]string{"all": {"#:rw"}, "ann": {"ann/y:rw"}})
	testkit.OK(t, c.Quiet()) // still connected
	c.Close()
	testkit.Eventually(t, "the client is gone", func() bool { return h.b.Stats().Clients == 1 })
	testkit.OK(t, all.Quiet())
}

// TestWhatWasRetainedEndsWithTheRightToRetainIt: CVE-2018-12546.
func TestWhatWasRetainedEndsWithTheRightToRetainIt(t *testing.T) {
	everything := map[string][]string{"all": {"#:rw"}, "ann": {"#:rw"}, "bob": {"#:rw"}}
	h := newHouse(t, everything)
	for _, name := range []string{"ann", "bob"} {
		c := h.dial(name, mqttest.Options{})
		testkit.OK(t, c.Publish(wire.Publish{Topic: "from/" + name, Payload: []byte("x"), QoS: 1, Retain: true}))
	}
	h.set(map[string][]string{"all": {"#:rw"}, "bob": {"#:rw"}})
	all := h.dial("all", mqttest.Options{})
	subscribe(t, all, "from/+", 0)
	if m := next(t, all); m.Topic != "from/bob" {
		t.Errorf("got %+v", m)
	}
	testkit.OK(t, all.Quiet())
	h.set(everything)
	subscribe(t, all, "from/ann", 0) // given back
	next(t, all)
	// A right that goes with the client id is one, too.
	h.set(map[string][]string{"all": {"#:rw"}, "ann": {"from/%c/#:rw"}})
	ann := h.dial("ann", mqttest.Options{ID: "c1"})
	testkit.OK(t, ann.Publish(wire.Publish{Topic: "from/c1/x", Payload: []byte("x"), QoS: 1, Retain: true}))
	subscribe(t, all, "from/+/x", 0)
	if m := next(t, all); m.Topic != "from/c1/x" {
		t.Errorf("got %+v", m)
	}
	testkit.OK(t, all.Quiet())
}

func TestWhatWaitsIsCheckedAgain(t *testing.T) {
	h := newHouse(t, map[string][]string{"all": {"#:rw"}, "ann": {"#:rw"}})
	o := mqttest.Options{ID: "keep", Keep: true, Properties: kept5}
	c := h.dial("ann", o)
	subscribe(t, c, "#", 1)
	c.Close()
	all := h.dial("all", mqttest.Options{})
	for _, topic := range []string{"secret/x", "news/x"} {
		testkit.OK(t, all.Publish(wire.Publish{Topic: topic, Payload: []byte("x"), QoS: 1}))
	}
	h.set(map[string][]string{"all": {"#:rw"}, "ann": {"news/#:r"}})
	testkit.OK(t, all.Publish(wire.Publish{Topic: "secret/y", Payload: []byte("x"), QoS: 1}))
	c = h.dial("ann", o)
	if m := next(t, c); m.Topic != "news/x" {
		t.Errorf("got %+v", m)
	}
	testkit.OK(t, c.Quiet())
}

func TestAChangedPasswordCutsConnectionsOff(t *testing.T) {
	h := newHouse(t, map[string][]string{"ann": {"#:rw"}, "bob": {"#:rw"}})
	ann, bob := h.dial("ann", mqttest.Options{}), h.dial("bob", mqttest.Options{})
	testkit.OK(t, h.file.Update(func(users []accounts.User) ([]accounts.User, error) {
		users[0].Hash = accounts.Hash("another")
		return users, nil
	}))
	_, err := h.accounts.Reload()
	testkit.OK(t, err)
	h.b.AccountsChanged()
	body, err := ann.Expect(wire.DISCONNECT)
	testkit.OK(t, err)
	if wire.Code(body[0]) != wire.NotAuthorized {
		t.Errorf("code 0x%02x", body[0])
	}
	testkit.OK(t, bob.Quiet())
	h.set(map[string][]string{"ann": {"#:rw"}})
	_, err = bob.Expect(wire.DISCONNECT)
	testkit.OK(t, err)
}

// TestAClientIDIsNotTakenFromAnotherUser: CVE-2026-33215 of another broker.
func TestAClientIDIsNotTakenFromAnotherUser(t *testing.T) {
	h := newHouse(t, map[string][]string{"ann": {"#:rw"}, "bob": {"#:rw"}})
	o := mqttest.Options{ID: "hers", Keep: true, Properties: kept5}
	ann := h.dial("ann", o)
	subscribe(t, ann, "t", 1)
	bobs := o
	bobs.Version, bobs.User, bobs.Password = wire.V5, "bob", "bob"
	for _, online := range []bool{true, false} {
		bob, present, code, err := mqttest.Connect(h.addr, bobs)
		if err != nil || code != wire.Success || present == online { // his own session the second time
			t.Fatalf("online %v: code 0x%02x, session present %v, %v", online, byte(code), present, err)
		}
		defer bob.Close()
		testkit.OK(t, ann.Quiet()) // she is not cut off
		if online {
			testkit.OK(t, ann.Disconnect())
			ann = h.dial("ann", mqttest.Options{})
		}
	}
	testkit.OK(t, ann.Publish(wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1})) // waits for her, not for him
	again, present, code, err := mqttest.Connect(h.addr, mqttest.Options{ID: "hers", Keep: true, Properties: kept5, Version: wire.V5, User: "ann", Password: "ann"})
	if err != nil || code != wire.Success || !present {
		t.Fatalf("her own session: code 0x%02x, present %v, %v", byte(code), present, err)
	}
	defer again.Close()
	_ = again.SetDeadline(time.Now().Add(mqttest.Patience))
	next(t, again)
}

// TestAClientIDThatAnotherUserTookKeepsNobodyOut: a guest took the id of
// another's client while that was away.
func TestAClientIDThatAnotherUserTookKeepsNobodyOut(t *testing.T) {
	dir := journal.DirFS(t.TempDir())
	h := newHouseWith(t, map[string][]string{"ann": {"#:rw"}, "guest": {"#:rw"}}, broker.Options{Folder: dir})
	o := mqttest.Options{ID: "ha1", Keep: true, Properties: kept5}
	guest := h.dial("guest", o)
	for _, keep := range []bool{true, false} {
		for _, version := range versions {
			p := mqttest.Options{ID: "ha1", Keep: keep, Version: version, User: "ann", Password: "ann"}
			c, _, code, err := mqttest.Connect(h.addr, p)
			if err != nil || code != wire.Success {
				t.Fatalf("version %d: code 0x%02x, %v", version, byte(code), err)
			}
			c.Close()
		}
	}
	testkit.OK(t, guest.Quiet())
}

func TestNamesWithWildcardsMayConnectAndWidenNothing(t *testing.T) {
	h := newHouse(t, map[string][]string{"ann": {"dev/%c/#:rw"}})
	for _, id := range []string{"#", "+", "+/#", "a/b", "dev/#", strings.Repeat("+/", 50)} {
		c := h.dial("ann", mqttest.Options{ID: id})
		if code, err := c.Subscribe("dev/#", 0); err != nil || code != wire.NotAuthorized {
			t.Errorf("%q subscribes to dev/#: 0x%02x, %v", id, byte(code), err)
		}
		testkit.OK(t, c.Send(wire.Publish{Topic: "dev/x/y", QoS: 1, PacketID: 1}))
		body, err := c.Expect(wire.PUBACK)
		testkit.OK(t, err)
		if codeOf(body) != byte(wire.NotAuthorized) {
			t.Errorf("%q publishes to dev/x/y: 0x%02x", id, codeOf(body))
		}
		c.Close()
	}
}

// TestWhoIsCutOffIsToldWhatChanged: an anonymous client has no account that
// could have changed.
func TestWhoIsCutOffIsToldWhatChanged(t *testing.T) {
	for _, c := range []struct {
		name, user string
		before     map[string][]string
		after      map[string][]string
		anonymous  bool // before
		want       string
	}{
		{name: "the first account", after: map[string][]string{"ann": {"#:rw"}}, want: "accounts exist now; a user name is needed"},
		{name: "allow_anonymous off", before: map[string][]string{"ann": nil}, after: map[string][]string{"ann": nil}, anonymous: true, want: "accounts exist now; a user name is needed"},
		{name: "removed", user: "ann", before: map[string][]string{"ann": nil}, want: "the account was changed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var l logLines
			h := newHouseWith(t, c.before, broker.Options{Log: l.logger()})
			o := accounts.Options{File: h.file, Delay: time.Millisecond, AllowAnonymous: c.anonymous}
			h.accounts.SetOptions(o)
			client := h.dial(c.user, mqttest.Options{ID: "x"})
			o.AllowAnonymous = false
			h.accounts.SetOptions(o)
			h.set(c.after)
			body, err := client.Expect(wire.DISCONNECT)
			testkit.OK(t, err)
			if !strings.Contains(string(body), c.want) {
				t.Errorf("DISCONNECT says %q", body)
			}
			l.one(t, "client was cut off", map[string]any{"level": "info", "client": "x", "why": c.want})
		})
	}
}

// TestALoginDoesNotOutliveItsAccount: a client was let in and waits for the
// one before it to let go of the session when its account goes away.
func TestALoginDoesNotOutliveItsAccount(t *testing.T) {
	var disk sync.RWMutex // locked, nothing gets to the disk
	slow := func() bool { disk.RLock(); defer disk.RUnlock(); return false }
	h := newHouseWith(t, map[string][]string{"ann": {"#:rw"}}, broker.Options{Folder: brokenDisk{journal.DirFS(t.TempDir()), slow}})
	o := mqttest.Options{ID: "c", Keep: true, Properties: kept5}
	old := h.dial("ann", o)
	disk.Lock()
	work := sync.OnceFunc(disk.Unlock)
	defer work()
	testkit.OK(t, old.Send(wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1, PacketID: 1, Retain: true}))
	testkit.Eventually(t, "the broker waits for the disk", func() bool { return h.b.Stats().Received == 1 })
	o.Version, o.User, o.Password = wire.V5, "ann", "ann"
	code := make(chan wire.Code, 1)
	go func() {
		c, _, got, err := mqttest.Connect(h.addr, o)
		if err == nil {
			c.Close()
		}
		code <- got
	}()
	_, err := old.Expect(wire.DISCONNECT) // now the new one waits for the old
	testkit.OK(t, err)
	h.set(nil)
	work()
	if got := <-code; got != wire.NotAuthorized && got != wire.BadCredentials && got != wire.ServerBusy {
		t.Errorf("let in: code 0x%02x", got)
	}
}

// TestParkedMessagesObeyTheRulesOfTheMomentTheyGoOn: while a message waits for
// room in one queue, another subscriber loses the right to it.
func TestParkedMessagesObeyTheRulesOfTheMomentTheyGoOn(t *testing.T) {
	h := newHouseWith(t, map[string][]string{"all": {"#:rw"}, "ann": {"#:rw"}},
		broker.Options{Limits: broker.Limits{QueuedMessages: 4, Inflight: 2, StallTimeout: time.Hour}})
	slow, ann, p := h.dial("all", mqttest.Options{}), h.dial("ann", mqttest.Options{}), h.dial("all", mqttest.Options{})
	subscribe(t, slow, "#", 1)
	subscribe(t, ann, "#", 1)
	const count = 12
	answers := make(chan error, 1)
	go func() {
		for i := range count {
			if err := p.Publish(wire.Publish{Topic: "t", Payload: fmt.Append(nil, i), QoS: 1}); err != nil {
				answers <- err
				return
			}
		}
		answers <- nil
	}()
	got := 0
	for ; got < 6; got++ { // 2 in flight to the slow one, 4 in its queue; the next is parked
		next(t, ann)
	}
	testkit.Eventually(t, "a message is parked", func() bool { return h.b.Stats().Received == 7 })
	h.set(map[string][]string{"all": {"#:rw"}, "ann": {"other:r"}})
	for range count {
		next(t, slow)
	}
	testkit.OK(t, <-answers)
	testkit.OK(t, ann.Quiet())
}
