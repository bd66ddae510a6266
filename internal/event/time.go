package event

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/itchyny/timefmt-go"
)

// layouts are the ways in which programs write a time, after the comma before
// a fraction has become a point. Go reads a fraction of a second wherever a
// layout has seconds, and a zone only where the layout has one: each stands
// here with every zone that it comes with.
var layouts = func() []string {
	var all []string
	for _, base := range []string{"2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006/01/02 15:04:05", "02/Jan/2006:15:04:05", "2006-01-02T15:04", "2006-01-02 15:04"} {
		for _, zone := range []string{"Z07:00", "Z0700", "Z07", " Z07:00", " Z0700", " Z07", " MST", ""} {
			all = append(all, base+zone)
		}
	}
	return append(all, "2006-01-02", time.RFC1123, time.RFC1123Z, time.RFC850, time.ANSIC, time.UnixDate, "Mon, _2 Jan 2006 15:04:05 -0700",
		"20060102T150405Z0700", "20060102T150405")
}()

// yearless are layouts that leave the year to the reader, as RFC 3164's syslog
// does.
var yearless = []string{time.Stamp, "Jan 02 15:04:05"}

// maxSeconds is the latest time that is taken for one, in the year 9999.
const maxSeconds = 253402300800

// maxTimeText bounds what is looked at as a time, in bytes.
const maxTimeText = 64

// ParseTime reads a time as the programs around us write it: RFC 3339 and what
// resembles it (a space for the T, a comma before the fraction, +0100, no
// zone), nginx's and syslog's forms, HTTP dates, and unix time in seconds,
// milliseconds, microseconds or nanoseconds, told apart by size. A time without
// a zone is in now's; one without a year is the latest that is not more than
// a day after now.
func ParseTime(text string, now time.Time) (time.Time, bool) {
	text = strings.TrimSpace(text)
	if text == "" || len(text) > maxTimeText {
		return time.Time{}, false
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil { // what most write
		return t, true
	}
	if t, ok := parseUnix(text); ok {
		return t, true
	}
	if i := strings.LastIndexByte(text, ','); i >= 8 && i+1 < len(text) && text[i-1] >= '0' && text[i-1] <= '9' && text[i+1] >= '0' && text[i+1] <= '9' {
		text = text[:i] + "." + text[i+1:]
	}
	if len(text) > 10 && text[10] == 't' {
		text = strings.ToUpper(text) // RFC 3339 allows small letters
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil && !unknownZone(t) {
			return t, true
		}
	}
	for _, layout := range yearless {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return withYear(t, now), true
		}
	}
	return time.Time{}, false
}

// unknownZone reports whether t was written with an abbreviation that is not
// known here, such as CET in America. Go takes it for UTC then, hours off.
func unknownZone(t time.Time) bool {
	name, offset := t.Zone()
	return offset == 0 && name != "" && name != "UTC" && name != "GMT" && t.Location().String() == name
}

// withYear gives t the latest year that does not put it more than a day after
// now: the clocks of a sender and of this machine may differ.
func withYear(t, now time.Time) time.Time {
	for year := now.Year() + 1; ; year-- {
		dated := time.Date(year, t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), t.Location())
		if dated.Before(now.Add(24*time.Hour)) && dated.Day() == t.Day() { // 29 February
			return dated
		}
		if year < now.Year()-8 {
			return dated
		}
	}
}

// parseUnix reads seconds since 1970, or thousandths, millionths or billionths
// of them: as seconds each would lie beyond the year 5000.
func parseUnix(text string) (time.Time, bool) {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		switch {
		case n <= 0:
			return time.Time{}, false
		case n < 1e11:
			return time.Unix(n, 0), true
		case n < 1e14:
			return time.UnixMilli(n), true
		case n < 1e17:
			return time.UnixMicro(n), true
		}
		return time.Unix(0, n), true
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f > 0 && f < math.MaxInt64) {
		return time.Time{}, false
	}
	unit := 1e6 // microseconds in one: a float has no more digits
	for limit := 1e11; f >= limit && unit > 1e-3; limit *= 1e3 {
		unit /= 1e3
	}
	return time.UnixMicro(int64(f * unit)), true
}

// timeUnits are the formats that TimeFormat knows by name.
var timeUnits = map[string]time.Duration{"unix": time.Second, "unix_ms": time.Millisecond, "unix_us": time.Microsecond, "unix_ns": time.Nanosecond}

// TimeFormat says how a time is written: strftime's directives, such as
// "%d.%m.%Y %H:%M:%S", or unix, unix_ms, unix_us, unix_ns. Empty is whatever
// ParseTime reads.
type TimeFormat string

// directives are those of strftime that timefmt reads, by their last letter.
const directives = "GYgyCmBbhAawuVUWedjkHlIPpMSsfZztnc+vrFDxTXR%"

// sampleTime is written and read again to try a format out.
var sampleTime = time.Date(2023, time.November, 25, 11, 22, 33, 456789000, time.UTC)

// Check tells what is wrong with the format: a name or a directive that does not
// exist, or directives that never give a time together.
func (f TimeFormat) Check() error {
	if f == "" || timeUnits[string(f)] != 0 {
		return nil
	}
	const instead = "write unix, unix_ms, unix_us, unix_ns, or strftime's directives such as %d.%m.%Y %H:%M:%S"
	if !strings.Contains(string(f), "%") {
		return fmt.Errorf("%q is not a format; %s", string(f), instead)
	}
	if len(f) > maxTimeText {
		return fmt.Errorf("has %d bytes; at most %d are allowed", len(f), maxTimeText)
	}
	for rest := string(f); ; {
		_, after, found := strings.Cut(rest, "%")
		if !found {
			break
		}
		colons := len(after) - len(strings.TrimLeft(after, ":")) // of %:z
		name, size := utf8.DecodeRuneInString(after[colons:])
		if rest = after[colons+size:]; size == 0 || !strings.ContainsRune(directives, name) || colons > 0 && (name != 'z' || colons > 3) {
			return fmt.Errorf("%q has the directive %q, which cannot be read; %s", string(f), "%"+after[:colons+size], instead)
		}
	}
	text := timefmt.Format(sampleTime, string(f))
	if _, err := timefmt.Parse(strings.TrimSpace(text), string(f)); err != nil {
		return fmt.Errorf("%q never gives a time, not even of %q (%w); %s", string(f), text, cmp.Or(errors.Unwrap(err), err), instead)
	}
	return nil
}

// Parse reads a time. One without a zone is in now's.
func (f TimeFormat) Parse(text string, now time.Time) (time.Time, bool) {
	if f == "" {
		return ParseTime(text, now)
	}
	text = strings.TrimSpace(text)
	if len(text) > maxTimeText {
		return time.Time{}, false
	}
	if unit := timeUnits[string(f)]; unit != 0 {
		perSecond := int64(time.Second / unit)
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return time.Unix(n/perSecond, n%perSecond*int64(unit)), n > 0 && n/perSecond < maxSeconds
		}
		n, err := strconv.ParseFloat(text, 64)
		n /= float64(perSecond)
		return time.UnixMicro(int64(n * 1e6)), err == nil && n > 0 && n < maxSeconds
	}
	t, err := timefmt.ParseInLocation(text, string(f), now.Location())
	if err != nil {
		return time.Time{}, false
	}
	if !strings.ContainsAny(string(f), "YycFDxGgs+") { // no directive that tells a year
		t = withYear(t, now)
	}
	return t, true
}
