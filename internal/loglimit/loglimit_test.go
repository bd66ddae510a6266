package loglimit

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

// TestOneLineAMinute, which says how many were left out before it.
func TestOneLineAMinute(t *testing.T) {
	var out bytes.Buffer
	log := zerolog.New(&out)
	var l Limit
	say := func() {
		if e := l.Line(log.Warn); e != nil {
			e.Msg("x")
		}
	}
	for range 3 {
		say()
	}
	if got := out.String(); strings.Count(got, "\n") != 1 || strings.Contains(got, "left_out") {
		t.Errorf("logged %s", got)
	}
	l.last = time.Now().Add(-2 * every)
	say()
	if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, `"lines_left_out":2`) {
		t.Errorf("logged %s", got)
	}
}
