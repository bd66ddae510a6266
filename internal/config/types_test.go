package config_test

import (
	"testing"
	"time"

	"event2mqtt/internal/config"
)

func TestSizesNeedAUnit(t *testing.T) {
	for text, want := range map[string]config.Size{"64KiB": 64 << 10, "1.5 MiB": 3 << 19, "10MB": 10e6, "0B": 0, "2GiB": 2 << 30, "5kB": 5000} {
		got, err := config.ParseSize(text)
		if err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
		if again, err := config.ParseSize(got.String()); err != nil || again != got {
			t.Errorf("%s is written as %s, which reads %d, %v", text, got, again, err)
		}
	}
	for _, text := range []string{"", "64", "KiB", "-1KiB", "1e400GiB", "64 kib", "9999999TiB"} {
		if got, err := config.ParseSize(text); err == nil {
			t.Errorf("%q reads %d", text, got)
		}
	}
}

func TestDurationsKnowDays(t *testing.T) {
	for text, want := range map[string]time.Duration{"7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "0.5d": 12 * time.Hour, "90s": 90 * time.Second, "0s": 0, "1m30s": 90 * time.Second} {
		if got, err := config.ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "5", "d", "-1s", "-2d", "soon", "1d-1h", "1e9d", "7d7d"} {
		if got, err := config.ParseDuration(text); err == nil {
			t.Errorf("%q reads %s", text, got)
		}
	}
}

func TestNearMisses(t *testing.T) {
	for name, want := range map[string]string{"webhok": "webhook", "tial": "tail", "xyzxyz": "", "": ""} {
		if got := config.Near(name, "webhook", "tail"); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

// TestDurationsReadAsPeopleWriteThem, and are read back.
func TestDurationsReadAsPeopleWriteThem(t *testing.T) {
	for d, want := range map[time.Duration]string{
		24 * time.Hour: "24h", 7 * 24 * time.Hour: "7d", 90 * time.Minute: "1h30m", 10 * time.Minute: "10m", 20 * time.Second: "20s", 0: "0s",
		36 * time.Hour: "36h", time.Hour + time.Second: "1h0m1s", 1500 * time.Millisecond: "1.5s", 10*time.Minute + 30*time.Second: "10m30s", 100 * time.Hour: "100h",
	} {
		got := config.DurationText(d)
		if back, err := config.ParseDuration(got); got != want || err != nil || back != d {
			t.Errorf("%s is written %s, want %s; read back %s, %v", d, got, want, back, err)
		}
	}
}
