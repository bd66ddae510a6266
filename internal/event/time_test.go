package event_test

import (
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/event"
)

// berlin is where the reader of the times is, and when.
var (
	berlin   = time.FixedZone("CET", 3600)
	readerAt = time.Date(2026, 1, 2, 3, 4, 5, 0, berlin)
)

func TestTimesAreReadAsProgramsWriteThem(t *testing.T) {
	utc := time.Date(2023, 11, 25, 10, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"1700906400":                      utc,
		"1700906400.5":                    utc.Add(time.Second / 2),
		"1.7009064e9":                     utc,
		"1700906400123":                   utc.Add(123 * time.Millisecond),
		"1700906400123.5":                 utc.Add(123500 * time.Microsecond),
		"1700906400123456":                utc.Add(123456 * time.Microsecond),
		"1700906400123456789":             utc.Add(123456789),
		"2023-11-25T10:00:00Z":            utc,
		"2023-11-25t10:00:00z":            utc,
		"2023-11-25T11:00:00+01:00":       utc,
		"2023-11-25T11:00:00+0100":        utc,
		"2023-11-25T11:00:00+01":          utc,
		"2023-11-25 10:00:00Z":            utc,
		"2023-11-25 11:00:00 +0100":       utc,
		"2023-11-25 10:00:00 UTC":         utc,
		"2023-11-25 11:00:00":             utc,
		"2023-11-25 11:00:00,123":         utc.Add(123 * time.Millisecond),
		"2023-11-25T11:00:00.123456":      utc.Add(123456 * time.Microsecond),
		"2023-11-25T10:00:00.123456789Z":  utc.Add(123456789),
		"2023/11/25 11:00:00":             utc,
		"25/Nov/2023:11:00:00 +0100":      utc,
		"Sat, 25 Nov 2023 10:00:00 GMT":   utc,
		"Sat, 25 Nov 2023 11:00:00 +0100": utc,
		"Sat Nov 25 11:00:00 2023":        utc,
		"2023-11-25":                      time.Date(2023, 11, 25, 0, 0, 0, 0, berlin),
		"Jan  2 03:04:05":                 readerAt,
		"Jan 02 03:04:05":                 readerAt,
		"Jan  3 01:00:00":                 time.Date(2026, 1, 3, 1, 0, 0, 0, berlin), // the sender's clock is ahead
		"Dec 31 23:59:59":                 time.Date(2025, 12, 31, 23, 59, 59, 0, berlin),
		"Feb 29 12:00:00":                 time.Date(2024, 2, 29, 12, 0, 0, 0, berlin),
	} {
		if got, ok := event.ParseTime(text, readerAt); !ok || !got.Equal(want) {
			t.Errorf("%s: got %v, %v; want %v", text, got, ok, want)
		}
	}
}

// A wrong time is worse than none, which is said.
func TestWhatIsNoTimeIsNotGuessed(t *testing.T) {
	for _, text := range []string{"", "-5", "0", "yesterday", "1e300", "NaN", "12:00:00", "25.11.2023 11:00", "11/25/2023 11:00", "2023-11-25 10:00:00 PST", "2023-13-25T10:00:00Z", "99999999999999999999"} {
		if got, ok := event.ParseTime(text, readerAt); ok {
			t.Errorf("%q gave %v", text, got)
		}
	}
}

func TestATimeFormatReadsTheRest(t *testing.T) {
	utc := time.Date(2023, 11, 25, 10, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		format event.TimeFormat
		text   string
		want   time.Time
	}{
		{"%d.%m.%Y %H:%M:%S", "25.11.2023 11:00:00", utc},
		{"%d.%m.%Y %H:%M:%S %z", "25.11.2023 10:00:00 +0000", utc},
		{"%b %d %H:%M", "Dec 31 23:59", time.Date(2025, 12, 31, 23, 59, 0, 0, berlin)},
		{"unix", "100000000000", time.Unix(1e11, 0)},
		{"unix_ms", "1700906400123", utc.Add(123 * time.Millisecond)},
		{"unix", "1700906400.5", utc.Add(time.Second / 2)},
		{"unix_ns", "1700906400123456789", utc.Add(123456789)},
		{"", "25/Nov/2023:11:00:00 +0100", utc},
	} {
		if err := c.format.Check(); err != nil {
			t.Errorf("%q: %v", c.format, err)
		}
		if got, ok := c.format.Parse(c.text, readerAt); !ok || !got.Equal(c.want) {
			t.Errorf("%q with %q: got %v, %v; want %v", c.text, c.format, got, ok, c.want)
		}
	}
	if got, ok := event.TimeFormat("%d.%m.%Y").Parse("1700906400", readerAt); ok {
		t.Errorf("a number was read with another format: %v", got)
	}
	for format, says := range map[event.TimeFormat]string{
		"2006-01-02": "is not a format", "%Q": `the directive "%Q"`, "%d.%m.%Y %": `the directive "%"`, "%-d.%m.%Y": `the directive "%-"`,
		"%Y %:d": `the directive "%:d"`, "%999999999d": `the directive "%9"`, "%é": `the directive "%é"`, "%G-%m-%d": `use "%Y"`, " %d.%m.%Y": "never gives a time",
		event.TimeFormat(strings.Repeat("%Y", 33)): "at most 64",
	} {
		if err := format.Check(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; want %s", format, err, says)
		}
	}
	for _, format := range []event.TimeFormat{
		"%a %b %e %H:%M:%S %Z %Y", "%c", "%D %r", "%F %T.%f%z", "%Y%m%d%H%M%S", "%s", "%G-W%V-%u", "%Y-%j", "%Y %U %w", "%C%y", "%FT%T%:z", "%k:%l %P", "%d/%h/%Y:%X", "100%% %v",
	} {
		if err := format.Check(); err != nil {
			t.Errorf("%q: %v", format, err)
		}
	}
}

func FuzzParseTime(f *testing.F) {
	f.Add("2023-11-25 11:00:00,123 +0100", "%d.%m.%Y")
	f.Fuzz(func(_ *testing.T, text, format string) {
		event.ParseTime(text, readerAt)
		event.TimeFormat(format).Parse(text, readerAt)
		_ = event.TimeFormat(format).Check()
	})
}
