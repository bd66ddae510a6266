package bridge

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/control"
	"event2mqtt/internal/testkit"
)

// TestAReloadIsToldToTheServiceManagerAndTheMetrics.
func TestAReloadIsToldToTheServiceManagerAndTheMetrics(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	h := newRig(t, plain)
	next := func() string {
		buf := make([]byte, 1000)
		_ = socket.SetReadDeadline(time.Now().Add(30 * time.Second))
		n, err := socket.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	metrics := func() string {
		r, err := http.Get("http://" + h.http + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		return string(text)
	}
	if got := next(); got != "READY=1" {
		t.Fatalf("at the start: %s", got)
	}
	var times []string
	for _, step := range []struct {
		yaml, metric string
	}{{plain + "nonsense: 1\n", "reload_successful 0"}, {plain + "log: {level: warn}\n", "reload_successful 1"}} {
		h.reload(step.yaml)
		if got := next(); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") {
			t.Errorf("told %q", got)
		}
		if got := next(); got != "READY=1" {
			t.Errorf("told %q", got)
		}
		text := metrics()
		if !strings.Contains(text, step.metric) {
			t.Errorf("want %s in\n%s", step.metric, text)
		}
		_, value, _ := strings.Cut(text, "timestamp_seconds 1")
		times = append(times, value[:strings.IndexByte(value, '\n')])
	}
	if times[0] >= times[1] {
		t.Errorf("loaded at %s, then at %s", times[0], times[1])
	}
}

// TestOnlyWhoMayReloads: programs here, the program's own page here, and those
// that know a token; no other page in a browser, nobody behind a proxy.
func TestOnlyWhoMayReloads(t *testing.T) {
	h := newRig(t, strings.Replace(plain, "HTTP}", "HTTP, token: right}", 1))
	for _, c := range []struct {
		header, value string
		want          int
	}{
		{"X-None", "", 200}, {"Authorization", "Bearer right", 200}, {"Authorization", "Bearer wrong", 401}, {"Authorization", "Bearer ", 401},
		{"Origin", "http://evil.example", 403}, {"Origin", "http://" + h.http, 200}, {"Sec-Fetch-Site", "cross-site", 403}, {"X-Forwarded-For", "127.0.0.1", 401},
	} {
		r, _ := http.NewRequest(http.MethodPost, "http://"+h.http+control.ReloadPath, nil)
		r.Header.Set(c.header, c.value)
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != c.want {
			t.Errorf("%s: %s: %d, want %d", c.header, c.value, response.StatusCode, c.want)
		}
	}
	if o, err := control.Reload(t.Context(), h.stateDir); err != nil || !o.OK {
		t.Errorf("by the state folder: %+v, %v", o, err)
	}
	if _, err := control.Reload(t.Context(), t.TempDir()); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("nothing runs: %v", err)
	}
}

// TestARunningBrokerIsFound where it really listens, also after a reload.
func TestARunningBrokerIsFound(t *testing.T) {
	state := t.TempDir()
	if found, ok := control.RunningBroker(state); ok {
		t.Errorf("nothing runs, and it finds %v", found)
	}
	h := newRigIn(t, plain, state)
	found := func() string {
		b, ok := control.RunningBroker(state)
		if ok != (b.Address != "") || b.TLS {
			t.Errorf("%+v, %v", b, ok)
		}
		return b.Address
	}
	testkit.Eventually(t, "it tells where it listens", func() bool { return found() == h.mqtt })
	other := testkit.FreeAddress(t)
	if o := h.reload(strings.Replace(plain, "listen: MQTT", "listen: '"+other+"'", 1)); !o.OK {
		t.Fatalf("%+v", o)
	}
	if got := found(); got != other {
		t.Errorf("after the reload it is %s, not %s", got, other)
	}
	if o := h.reload(strings.Replace(plain, "listen: MQTT", "listen: off", 1)); !o.OK || found() != "" {
		t.Errorf("%+v: %s", o, found())
	}
}

// TestTheWatchReloadsWhatIsNotLoadedYet: what a command has had taken up is not
// told a second time, and bridge/config keeps what has changed. A file that was
// put back after a mistake is taken up, whatever is loaded.
func TestTheWatchReloadsWhatIsNotLoadedYet(t *testing.T) {
	h := newRigWith(t, plain, t.TempDir(), BuiltIn(), func(b *Bridge) { b.opt.File, _ = b.opt.Plan.doc.Place("http") })
	sum := func() config.Sum {
		s, err := config.SumOf(h.file)
		testkit.OK(t, err)
		return s
	}
	seen := func() control.Outcome {
		o, err := h.reloadUnless(t.Context(), byFile, sum())
		testkit.OK(t, err)
		return o
	}
	h.write(plain + "rules: [{match: A, drop: true}]\n")
	testkit.Eventually(t, "the watch reloads", func() bool { return strings.Contains(h.log.String(), `"rules: changed"`) })
	before := h.counts.reloads.Load()
	first := seen()
	if o := h.reload(plain + "rules: [{match: B, drop: true}]\n"); len(o.Changed) != 1 {
		t.Fatalf("the reload: %+v", o)
	}
	if o := seen(); len(first.Changed) != 1 || len(o.Changed) != 1 || o.Changed[0] != "rules: changed" {
		t.Errorf("what the watch sees then: %+v, %+v", first, o)
	}
	if n := h.counts.reloads.Load() - before; n != 1 || strings.Contains(h.log.String(), "nothing has changed") {
		t.Errorf("%d reloads for one change", n)
	}
	h.reload("nonsense: 1\n")
	h.write(plain + "rules: [{match: B, drop: true}]\n")
	if o := seen(); !o.OK {
		t.Errorf("put back: %+v", o)
	}
	if o, err := h.Reload(t.Context()); err != nil || !o.OK || len(o.Changed) != 0 {
		t.Errorf("a command reloads in any case: %+v %v", o, err)
	}
}
