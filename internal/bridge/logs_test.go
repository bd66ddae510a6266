package bridge

import (
	"bytes"
	"strings"
	"testing"

	"event2mqtt/internal/testkit"

	"github.com/rs/zerolog"
)

// TestEachPartHasALevelOfItsOwn, which changes while its loggers are in use.
func TestEachPartHasALevelOfItsOwn(t *testing.T) {
	var out bytes.Buffer
	c := Defaults().Log
	l := newLogs(zerolog.New(&out), c)
	broker := l.part("broker").With().Str("client", "c").Logger() // made before any change
	logged := func() string {
		out.Reset()
		broker.Debug().Msg("broker debug")
		broker.Info().Msg("broker info")
		tail := l.part("tail")
		tail.Info().Msg("tail info")
		tail.Error().Msg("tail error")
		var said []string
		for _, what := range []string{"broker debug", "broker info", "tail info", "tail error"} {
			if strings.Contains(out.String(), what) {
				said = append(said, what)
			}
		}
		return strings.Join(said, ", ")
	}
	for _, step := range []struct{ level, broker, tail, want string }{
		{"info", "", "", "broker info, tail info, tail error"},
		{"error", "debug", "", "broker debug, broker info, tail error"},
		{"debug", "warn", "error", "tail error"},
		{"debug", "", "", "broker debug, broker info, tail info, tail error"},
	} {
		c.Level, c.Levels.Broker, c.Levels.Tail = step.level, step.broker, step.tail
		l.set(c)
		if got := logged(); got != step.want {
			t.Errorf("%+v: it says %s", step, got)
		}
	}
	if !strings.Contains(out.String(), `"part":"broker","client":"c"`) {
		t.Errorf("no part: %s", out.String())
	}
}

// TestLevelsChangeByReload: a part falls silent and speaks again, and others do
// not notice.
func TestLevelsChangeByReload(t *testing.T) {
	h := newRig(t, plain)
	lines := func(part string) int {
		return strings.Count(h.log.String(), `"part":"`+part+`"`)
	}
	testkit.Eventually(t, "it has said where it listens", func() bool { return lines("bridge") >= 3 })
	if o := h.reload(plain + "log: {levels: {bridge: error}}\n"); !o.OK || strings.Join(o.Changed, ";") != "log: changed" {
		t.Fatalf("%+v", o)
	}
	before := lines("bridge")
	h.reload(plain + "log: {levels: {bridge: error}}\nmax_payload: 2KiB\n")
	if after := lines("bridge"); after != before {
		t.Errorf("%d lines at level error", after-before)
	}
	h.reload(plain)
	if lines("bridge") == before {
		t.Error("it stays silent")
	}
	if o := h.reload(plain + "log: {levels: {brocker: debug, tail: loud}}\n"); o.OK || !strings.Contains(strings.Join(o.Problems, "\n"), "log.levels.brocker: there is no such option; did you mean broker?") ||
		!strings.Contains(strings.Join(o.Problems, "\n"), `log.levels.tail: "loud" is not one of debug, info, warn, error`) {
		t.Errorf("%+v", o)
	}
}

// TestTheEndIsTold: what stops says when it has.
func TestTheEndIsTold(t *testing.T) {
	var log *testkit.Log
	t.Run("program", func(t *testing.T) { log = newRig(t, plain).log })
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if last := lines[len(lines)-1]; !strings.Contains(last, `"stopped"`) || !strings.Contains(log.String(), `"stopping"`) {
		t.Errorf("the log ends with %s", last)
	}
}
