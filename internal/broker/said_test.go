package broker_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// This file tests what the log says of clients.

// logLines keeps the lines at the default level.
type logLines struct {
	mu    sync.Mutex
	lines []map[string]any
}

func (l *logLines) Write(p []byte) (int, error) {
	var line map[string]any
	if err := json.Unmarshal(p, &line); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, line)
	return len(p), nil
}

func (l *logLines) logger() zerolog.Logger { return zerolog.New(l).Level(zerolog.InfoLevel) }

// find returns the lines whose message holds a text.
func (l *logLines) find(text string) (out []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(fmt.Sprint(line["message"]), text) {
			out = append(out, line)
		}
	}
	return out
}

// one waits for the first line that holds a text and checks its fields.
func (l *logLines) one(t *testing.T, text string, fields map[string]any) map[string]any {
	t.Helper()
	testkit.Eventually(t, "the log says "+text, func() bool { return len(l.find(text)) > 0 })
	line := l.find(text)[0]
	for key, want := range fields {
		if got := fmt.Sprint(line[key]); !strings.Contains(got, fmt.Sprint(want)) {
			t.Errorf("%s: %s is %q, want %v", text, key, got, want)
		}
	}
	return line
}

func TestTheLogSaysWhoConnectsAndWhyItEnds(t *testing.T) {
	for name, end := range map[string]struct {
		do  func(*broker.Broker, *mqttest.Client)
		why string
	}{
		"goodbye":  {func(_ *broker.Broker, c *mqttest.Client) { _ = c.Disconnect() }, "it disconnected normally"},
		"will":     {func(_ *broker.Broker, c *mqttest.Client) { _, _ = c.Write([]byte{0xe0, 1, 4}) }, "asked for its will"},
		"lost":     {func(_ *broker.Broker, c *mqttest.Client) { c.Close() }, "closed the connection without"},
		"silent":   {func(*broker.Broker, *mqttest.Client) {}, "keep alive"},
		"violates": {func(_ *broker.Broker, c *mqttest.Client) { _, _ = c.Write([]byte{0xf0, 0}) }, "packet type 15"},
	} {
		t.Run(name, func(t *testing.T) {
			var l logLines
			b, addr := startWith(t, broker.Options{Log: l.logger()})
			version, named := wire.V311, "3.1.1"
			if name == "will" { // only version 5 can ask for it
				version, named = wire.V5, "5"
			}
			c := dial(t, addr, mqttest.Options{ID: "kitchen", Version: version, KeepAlive: 1})
			l.one(t, "client connected", map[string]any{"level": "info", "client": "kitchen", "from": "127.0.0.1:", "version": named, "keepalive": 1, "clean": true})
			end.do(b, c)
			testkit.Eventually(t, "the end is logged", func() bool {
				return len(l.find("disconnected"))+len(l.find("client lost"))+len(l.find("cut off")) == 1
			})
			line := append(append(l.find("disconnected"), l.find("client lost")...), l.find("cut off")...)[0]
			if !strings.Contains(fmt.Sprint(line["why"]), end.why) || line["client"] != "kitchen" {
				t.Errorf("got %v", line)
			}
		})
	}
}

func TestTwoClientsThatFightOverAnIDAreWarnedOf(t *testing.T) {
	var l logLines
	_, addr := startWith(t, broker.Options{Log: l.logger()})
	for range 20 {
		dial(t, addr, mqttest.Options{ID: "ESP8266Client"})
	}
	l.one(t, "same client id", map[string]any{"level": "warn", "client": "ESP8266Client"})
	if n := len(l.find("same client id")); n != 1 {
		t.Errorf("said %d times", n)
	}
}

func TestClientsThatComeAndGoAllTheTimeDoNotFillTheLog(t *testing.T) {
	var l logLines
	b, addr := startWith(t, broker.Options{Log: l.logger()})
	const count = 600
	for i := range count { // names of their own: the address has a budget too
		c, err := mqttest.Dial(addr, mqttest.Options{ID: fmt.Sprint("flap", i%300)})
		testkit.OK(t, err)
		testkit.OK(t, c.Disconnect())
		c.Close()
	}
	testkit.Eventually(t, "all have left", func() bool { return b.Stats().Clients == 0 })
	if n := len(l.find("client connected")); n < 100 || n > 300 {
		t.Errorf("%d lines about %d connections", n, count)
	}
	for range 100 {
		c, err := mqttest.Dial(addr, mqttest.Options{ID: "one"})
		testkit.OK(t, err)
		c.Close()
	}
	if n := len(l.find("client connected")); n > 310 {
		t.Errorf("%d lines", n)
	}
}

func TestTheLogSaysWhichPacketIsTooLarge(t *testing.T) {
	var l logLines
	_, addr := startWith(t, broker.Options{Log: l.logger(), Limits: broker.Limits{PacketSize: 4000}})
	for range 3 {
		c := dial(t, addr, mqttest.Options{ID: "big"})
		testkit.OK(t, c.Send(wire.Publish{Topic: "t", Payload: make([]byte, 6000)}))
		if _, err := c.Next(); err == nil {
			t.Error("not cut off")
		}
	}
	l.one(t, "broker.max_packet", map[string]any{"level": "warn", "client": "big", "from": "127.0.0.1:", "size": 6003, "max_packet": 4000})
	if n := len(l.find("broker.max_packet")); n != 1 {
		t.Errorf("said %d times", n)
	}
}

func TestTheLogSaysWhyAConnectIsRefused(t *testing.T) {
	var l logLines
	a, err := accounts.New(accounts.Options{Delay: time.Millisecond, Failures: 2, Configured: []accounts.User{{Name: "ann", Hash: accounts.PlainHash("x"), Allow: []string{"a:rw"}}}})
	testkit.OK(t, err)
	_, addr := startWith(t, broker.Options{Log: l.logger(), Accounts: a})
	for _, c := range []struct {
		o   mqttest.Options
		why string
	}{
		{mqttest.Options{ID: "1", User: "bob", Password: "x"}, "wrong user name or password"},
		{mqttest.Options{ID: "2"}, "a user name and password are needed"},
		{mqttest.Options{ID: "3", User: "ann", Password: "x", Will: &wire.Publish{Topic: "b"}}, "will's topic"},
		{mqttest.Options{ID: strings.Repeat("4", 300), User: "ann", Password: "x"}, "more than 256 bytes"},
	} {
		client, _, code, err := mqttest.Connect(addr, c.o)
		testkit.OK(t, err)
		client.Close()
		if code == wire.Success {
			t.Errorf("%v was let in", c.o)
		}
		testkit.Eventually(t, "the log says "+c.why, func() bool {
			for _, line := range l.find("client was refused") {
				if strings.Contains(fmt.Sprint(line["why"]), c.why) && line["level"] == "warn" && line["version"] == "3.1.1" && line["user"] == c.o.User {
					return true
				}
			}
			return false
		})
	}
	// Who speaks no MQTT is told of, who says nothing is not.
	before := len(l.find("client was refused"))
	nc, err := net.Dial("tcp", addr)
	testkit.OK(t, err)
	nc.Close()
	nc, err = net.Dial("tcp", addr)
	testkit.OK(t, err)
	_, _ = nc.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	testkit.Eventually(t, "it is told", func() bool { return len(l.find("client was refused")) == before+1 })
	nc.Close()
}

// TestTheLogSaysWhichOtherProtocolAClientSpeaks, whatever MQTT its first bytes
// look like, and where that protocol is spoken.
func TestTheLogSaysWhichOtherProtocolAClientSpeaks(t *testing.T) {
	for first, why := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n":           "speaks HTTP; webhooks",
		"POST /hooks/a HTTP/1.1\r\n\r\n{}": "speaks HTTP", // shorter than the PUBREC that it seems to be
		"PUT /x HTTP/1.1\r\nHost: printer.lan:1883\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\n\r\n{}": "speaks HTTP", // and longer
		"HEAD / HTTP/1.1\r\n\r\n":                      "speaks HTTP",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":             "speaks HTTP",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03": "speaks TLS; TLS is spoken at broker.tls.listen",
		"\x40\x02\x00\x01":                             "first packet is PUBACK",
	} {
		t.Run(fmt.Sprintf("%.8q", first), func(t *testing.T) {
			var l logLines
			_, addr := startWith(t, broker.Options{Log: l.logger()})
			nc, err := net.Dial("tcp", addr)
			testkit.OK(t, err)
			defer nc.Close()
			_, err = nc.Write([]byte(first))
			testkit.OK(t, err)
			testkit.OK(t, nc.(*net.TCPConn).CloseWrite())
			l.one(t, "client was refused", map[string]any{"level": "warn", "from": "127.0.0.1:", "why": why})
		})
	}
}

// TestOneCauseOfRefusalsDoesNotHideAnother of the same address.
func TestOneCauseOfRefusalsDoesNotHideAnother(t *testing.T) {
	var l logLines
	_, addr := startWith(t, broker.Options{Log: l.logger()})
	for i, first := range []string{"\n", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00"} {
		nc, err := net.Dial("tcp", addr)
		testkit.OK(t, err)
		_, err = nc.Write([]byte(first))
		testkit.OK(t, err)
		testkit.Eventually(t, fmt.Sprintf("%q is told", first), func() bool { return len(l.find("client was refused")) == i+1 })
		nc.Close()
	}
}

func TestRefusalsDoNotFillTheLog(t *testing.T) {
	var l logLines
	b, addr := startWith(t, broker.Options{Log: l.logger()})
	for i := range 200 {
		c, _, _, err := mqttest.Connect(addr, mqttest.Options{NoID: true, Keep: true, User: fmt.Sprint("u", i), Password: "x"})
		testkit.OK(t, err)
		c.Close()
	}
	testkit.Eventually(t, "all have left", func() bool { return b.Stats().Clients == 0 })
	if n := len(l.find("client was refused")); n == 0 || n > 20 {
		t.Errorf("%d lines", n)
	}
}

// TestTemporaryRefusalsAreNotFinal: Home Assistant takes 4, 5, 0x86 and 0x87
// as final and never comes back.
func TestTemporaryRefusalsAreNotFinal(t *testing.T) {
	a, err := accounts.New(accounts.Options{Delay: time.Millisecond, Failures: 2, Configured: []accounts.User{{Name: "ann", Hash: accounts.PlainHash("x"), Allow: []string{"#:rw"}}}})
	testkit.OK(t, err)
	_, addr := startWith(t, broker.Options{Accounts: a, Limits: broker.Limits{Clients: 1}})
	refusal := func(o mqttest.Options) wire.Code {
		t.Helper()
		c, _, code, err := mqttest.Connect(addr, o)
		testkit.OK(t, err)
		c.Close()
		return code
	}
	dial(t, addr, mqttest.Options{User: "ann", Password: "x"})
	for name, version := range versions {
		if code := refusal(mqttest.Options{Version: version, User: "ann", Password: "x"}); code != 3 && code != wire.ServerBusy {
			t.Errorf("%s: too many clients: 0x%02x", name, byte(code))
		}
	}
	for range 2 {
		refusal(mqttest.Options{User: "bob", Password: "x"})
	}
	for name, version := range versions {
		if code := refusal(mqttest.Options{Version: version, User: "bob", Password: "x"}); code != 3 && code != wire.Banned {
			t.Errorf("%s: locked out: 0x%02x", name, byte(code))
		}
	}
}

// slowHash is one that takes long to check a password against, so that others
// have to wait for their turn.
var slowHash = fmt.Sprintf("$7$1000000$%s$%s", base64.StdEncoding.EncodeToString([]byte("salt")), base64.StdEncoding.EncodeToString(make([]byte, 64)))

// TestALoginThatHasToWaitTooLongIsToldToComeBack, with a code that is not final.
func TestALoginThatHasToWaitTooLongIsToldToComeBack(t *testing.T) {
	a, err := accounts.New(accounts.Options{Delay: time.Millisecond, Failures: 1000, Configured: []accounts.User{{Name: "ann", Hash: slowHash}}})
	testkit.OK(t, err)
	_, addr := startWith(t, broker.Options{Accounts: a, Limits: broker.Limits{ConnectTimeout: time.Second}})
	got := map[byte]*[256]atomic.Int64{wire.V311: {}, wire.V5: {}} // how many were refused, by version and code
	var wg sync.WaitGroup
	for i := range 40 {
		version := []byte{wire.V311, wire.V5}[i%2]
		wg.Go(func() {
			if c, _, code, err := mqttest.Connect(addr, mqttest.Options{Version: version, User: "ann", Password: "x"}); err == nil {
				got[version][code].Add(1)
				c.Close()
			}
		})
	}
	wg.Wait()
	for version, busy := range map[byte]wire.Code{wire.V311: 3, wire.V5: wire.ServerBusy} {
		if got[version][busy].Load() == 0 {
			t.Errorf("version %d: nobody was refused with 0x%02x", version, byte(busy))
		}
	}
	if n := got[wire.V311][5].Load() + got[wire.V5][wire.NotAuthorized].Load(); n > 0 {
		t.Errorf("%d were refused as not authorized", n)
	}
}

// TestThatThereAreNoAccountsIsSaidOnce, not for each client that gives a name,
// until there were some.
func TestThatThereAreNoAccountsIsSaidOnce(t *testing.T) {
	var l logLines
	a, err := accounts.New(accounts.Options{Delay: time.Millisecond, Failures: 1, Log: l.logger()})
	testkit.OK(t, err)
	b, addr := startWith(t, broker.Options{Accounts: a, Log: l.logger()})
	refused := func(users ...string) {
		t.Helper()
		for _, user := range users {
			for range 2 { // the second would be locked out
				c, _, code, err := mqttest.Connect(addr, mqttest.Options{Version: wire.V5, User: user, Password: "x"})
				testkit.OK(t, err)
				c.Close()
				if code != wire.BadCredentials {
					t.Errorf("%s: 0x%02x", user, byte(code))
				}
			}
		}
		testkit.Eventually(t, "they have left", func() bool { return b.Stats().Clients == 0 })
	}
	refused("ann", "bob")
	l.one(t, "there are no accounts", map[string]any{"user": "ann", "from": "127.0.0.1"})
	if all := append(l.find("no accounts"), l.find("refused")...); len(all) != 2 { // the one line has both
		t.Errorf("the log says: %v", all)
	}
	for _, now := range [][]accounts.User{{{Name: "ann", Hash: accounts.PlainHash("x")}}, nil} {
		a.SetOptions(accounts.Options{Configured: now})
		_, err = a.Reload()
		testkit.OK(t, err)
	}
	refused("ann")
	if all := l.find("no accounts"); len(all) != 2 {
		t.Errorf("the log says: %v", all)
	}
}
