package octoprint

import (
	"math"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"event2mqtt/internal/event"
)

// This file reads the frames of the push API. It bounds in number what a frame
// may hold; the connection bounds its bytes.

const (
	// maxFrame bounds a frame, in bytes. The largest, history, has 170 KB when
	// OctoPrint keeps half an hour of temperatures.
	maxFrame    = 1 << 20
	maxReadings = 5000 // of a frame; older ones are skipped
	maxHeaters  = 64   // of a reading
	maxMarkings = 5000 // of a frame; older ones are skipped
	maxKey      = 64   // bytes of a heater's name
	maxType     = event.MaxName
	maxNumber   = 32                // bytes of a number that is passed on as it was written
	maxFinite   = 1e15              // what people use is less
	maxTime     = math.MaxInt32 * 2 // seconds since 1970
)

// frame is one frame; one of its fields is set, or none if it is of no use.
type frame struct {
	Connected *greeting
	// History is set for the snapshot that follows authentication; Current is
	// each later one.
	History, Current *snapshot
	Event            *happening
	Reauth           string        // why a new login is wanted
	Slicing          *gjson.Result // progress of the slicer
}

// greeting is the first frame of a connection.
type greeting struct {
	Version  string
	SafeMode bool
}

// happening is an event of OctoPrint's, byte for byte.
type happening struct {
	Name    string
	Payload []byte // JSON, also null; empty if there is none
}

// snapshot is what OctoPrint says of itself and its printer.
type snapshot struct {
	Server   float64 // OctoPrint's clock, seconds since 1970
	State    gjson.Result
	Job      gjson.Result
	Progress gjson.Result
	Z        gjson.Result
	Whole    gjson.Result
	Readings []reading
	Markings []marking
	Marks    bool // there is a list of markings
	// Waits is set if a line of the printer's says that it waits for its user.
	Waits bool
}

// reading are the temperatures at one time.
type reading struct {
	Time    int64 // seconds since 1970
	Heaters []heater
}

// heater is one temperature. The texts are numbers as OctoPrint wrote them.
type heater struct {
	Key                  string
	Actual, Target       float64
	ActualText, TargText string
}

// marking is what OctoPrint draws into its temperature graph: something of note
// that happened, and when.
type marking struct {
	Type string
	Time float64 // seconds since 1970, of OctoPrint's clock
}

// waits are the lines with which a printer says that it waits for its user, in
// OctoPrint 1 and 2. The subscription asks for these alone.
const waits = `^(Recv:|<<<) echo:busy: paused for user`

var waitsLine = regexp.MustCompile(waits)

// decode reads a frame. The result refers to b. What is not known is no error:
// OctoPrint may add kinds of frames, and plugins do.
func decode(b []byte) (f frame, err error) {
	if err := event.Check(b); err != nil {
		return f, err
	}
	root := gjson.ParseBytes(b)
	if !root.IsObject() {
		return f, nil
	}
	root.ForEach(func(key, value gjson.Result) bool {
		switch key.Str {
		case "connected":
			f.Connected = &greeting{bounded(value.Get("version").Str, maxKey), value.Get("safe_mode").Bool()}
		case "history":
			f.History = decodeSnapshot(value)
		case "current":
			f.Current = decodeSnapshot(value)
		case "event":
			name := value.Get("type").Str
			if name != "" && len(name) <= maxType {
				// Both are copies: an event is kept longer than its frame.
				f.Event = &happening{strings.Clone(name), []byte(value.Get("payload").Raw)}
			}
		case "reauthRequired":
			f.Reauth = bounded(value.Get("reason").Str, maxKey)
			if f.Reauth == "" {
				f.Reauth = "unknown"
			}
		case "slicingProgress":
			f.Slicing = &value
		}
		return true
	})
	return f, nil
}

// bounded is the beginning of a text, in whole runes. It is the same after it
// was stored as JSON.
func bounded(s string, most int) string {
	if len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	return strings.ToValidUTF8(s, "?")
}

// finite is a number that people use, or 0: JSON has numbers that are infinite
// here, and that could not be stored.
func finite(value gjson.Result) float64 {
	if value.Type != gjson.Number || math.Abs(value.Num) > maxFinite {
		return 0
	}
	return value.Num
}

func decodeSnapshot(value gjson.Result) *snapshot {
	s := &snapshot{
		Server: finite(value.Get("serverTime")), State: value.Get("state"), Job: value.Get("job"),
		Progress: value.Get("progress"), Z: value.Get("currentZ"), Whole: value,
	}
	s.Readings = decodeReadings(value.Get("temps"))
	s.Marks = value.Get("markings").IsArray()
	newest(value.Get("markings"), maxMarkings, func(m gjson.Result) {
		if at := m.Get("time").Num; at > 0 && at < maxTime {
			s.Markings = append(s.Markings, marking{bounded(m.Get("type").Str, maxKey), at})
		}
	})
	value.Get("logs").ForEach(func(_, line gjson.Result) bool {
		s.Waits = waitsLine.MatchString(line.Str)
		return !s.Waits
	})
	return s
}

// newest calls use with the last items of an array, most at the most.
func newest(array gjson.Result, most int, use func(gjson.Result)) {
	if !array.IsArray() {
		return
	}
	n := 0
	array.ForEach(func(_, _ gjson.Result) bool { n++; return true })
	array.ForEach(func(_, item gjson.Result) bool {
		if n--; n < most {
			use(item)
		}
		return true
	})
}

func decodeReadings(temps gjson.Result) (all []reading) {
	newest(temps, maxReadings, func(item gjson.Result) {
		r := reading{Time: item.Get("time").Int()}
		item.ForEach(func(key, value gjson.Result) bool {
			actual, target := value.Get("actual"), value.Get("target")
			if key.Str == "time" || key.Str == "" || len(key.Str) > maxKey || !value.IsObject() {
				return true
			}
			r.Heaters = append(r.Heaters, heater{key.Str, actual.Num, target.Num, number(actual), number(target)})
			return len(r.Heaters) < maxHeaters
		})
		all = append(all, r)
	})
	return all
}

// number is a number as it was written, or null.
func number(value gjson.Result) string {
	if value.Type == gjson.Number && len(value.Raw) <= maxNumber {
		return value.Raw
	}
	return "null"
}

// instant is a time of OctoPrint's clock.
func instant(seconds float64) time.Time { return time.UnixMicro(int64(seconds * 1e6)) }
