package octoprint

import (
	"fmt"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
)

// odd is a translator that is given frames of an OctoPrint that says odd things.
type odd struct {
	t  *testing.T
	tr *translator
}

func newOdd(t *testing.T, change ...func(*Options)) *odd {
	t.Helper()
	o := &Options{}
	config.SetDefaults(o)
	for _, c := range change {
		c(o)
	}
	nothing := asks{file: func(_, _ string) []byte { return nil }, files: func() []byte { return nil }}
	return &odd{t, newTranslator(o, nil, nothing)}
}

// take takes a frame.
func (o *odd) take(text string) result {
	o.t.Helper()
	f, err := decode([]byte(text))
	if err != nil {
		o.t.Fatal(err)
	}
	return o.tr.frame(f, time.Now())
}

// heats takes a snapshot with the temperatures of heaters.
func (o *odd) heats(at int, names ...string) result {
	o.t.Helper()
	text := fmt.Sprintf(`{"time":%d`, at)
	for _, name := range names {
		text += "," + quote(name) + `:{"actual":1.5,"target":2}`
	}
	return o.take(`{"current":{"state":{"flags":{}},"temps":[` + text + `}]}}`)
}

// TestNoTextTakesTheDeviceAway: plugins make up heaters, and firmware its name.
func TestNoTextTakesTheDeviceAway(t *testing.T) {
	o := newOdd(t)
	names := []string{
		"tool0", "tool0_target", "target_tool0", "tool", "Enclosure 1", "Enclosure_1", "Enclosure\u00a01", "RPi°C", "ö", "", " ", "\x1b[31m", "bed.2", "a/+/#", "\x00",
		"progress", "error", "z", "file", "eta", "mqtt", "snapshot", strings.Repeat("ö", maxKey/2), "\u202egnp",
		"Enclosure_1_" + digest("Enclosure 1"), // which is the key of another
	}
	r := o.heats(1, names...)
	o.take(`{"connected":{"version":` + quote("1.11\x1b[2J\n"+strings.Repeat("ö", 500)) + `}}`)
	o.take(`{"event":{"type":"FirmwareData","payload":{"name":` + quote("Marlin\x1b[31m"+strings.Repeat("ü", 400)) + `,"data":{"MACHINE_TYPE":` + quote("\n"+strings.Repeat("x", 300)) + `}}}}`)
	if v := o.tr.version; len(v) > maxKey || strings.ContainsFunc(v, unicode.IsControl) {
		t.Errorf("the version is %q", v)
	}
	for _, address := range []string{"http://h", "http://h/" + strings.Repeat("x", 3000)} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		d := o.tr.describe(u, "My\nPrinter\x1b"+strings.Repeat("é", 300))
		if err := d.Check(); err != nil {
			t.Errorf("no device: %v", err)
		}
		if !strings.HasPrefix(d.Name, "My Printer ") || !strings.HasPrefix(d.Version, "1.11 [2J ") || !strings.HasPrefix(d.Model, " xxx") {
			t.Errorf("%q %q %q", d.Name, d.Version, d.Model)
		}
		shown, reported := map[string]string{}, map[string]bool{}
		for _, st := range r.states {
			reported[st.Key] = true
		}
		for _, e := range d.Entities {
			shown[e.Key] = e.State
			if strings.HasPrefix(e.State, keyTemperature) && !reported[e.State] {
				t.Errorf("%s shows the state %q, which is never reported", e.Key, e.State)
			}
		}
		for key, state := range map[string]string{
			"temperature_tool0": "temperature/tool0", "target_tool0": "temperature/tool0", "progress": "progress", "temperature_progress": "temperature/progress",
			"temperature_Enclosure_1": "temperature/Enclosure_1", "temperature_Enclosure_1_" + digest("Enclosure 1"): "temperature/Enclosure 1",
		} {
			if shown[key] != state {
				t.Errorf("%s shows %q, want %q", key, shown[key], state)
			}
		}
	}
}

// TestAHeatersKeyStaysWhicheverOthersThereAre, or it would be another entity
// after each start.
func TestAHeatersKeyStaysWhicheverOthersThereAre(t *testing.T) {
	a, b := heaterEntities([]string{"bed 2", "bed.2"}), heaterEntities([]string{"bed.2", "bed 2"})
	if fmt.Sprint(a[:2]) != fmt.Sprint(b[2:]) || fmt.Sprint(a[2:]) != fmt.Sprint(b[:2]) {
		t.Errorf("%+v\n%+v", a, b)
	}
}

// TestNewHeatersAtEachConnectionAreBounded, and those that are known go on.
func TestNewHeatersAtEachConnectionAreBounded(t *testing.T) {
	o := newOdd(t)
	closed := `{"current":{"state":{"flags":{"closedOrError":true}},"temps":[]}}`
	o.heats(1, "tool0")
	for i := range 20 {
		var names []string
		for k := range maxHeaters {
			names = append(names, fmt.Sprintf("h%d_%d", i, k))
		}
		o.heats(i+2, names...)
		o.take(closed)
	}
	if len(o.tr.order) > maxNames || len(o.tr.heaters) > maxNames {
		t.Errorf("%d names, %d heaters are kept", len(o.tr.order), len(o.tr.heaters))
	}
	d := o.tr.describe(&url.URL{Scheme: "http", Host: "h"}, "n")
	if err := d.Check(); err != nil {
		t.Error(err)
	}
	if r := o.heats(100, "tool0", "new"); !reports(r, "temperature/tool0") || reports(r, "temperature/new") {
		t.Errorf("%+v", r.states)
	}
}

func reports(r result, key string) bool {
	for _, st := range r.states {
		if st.Key == key {
			return true
		}
	}
	return false
}

// TestWhatIsKnownOfThePrinterKeepsNoFrame in memory.
func TestWhatIsKnownOfThePrinterKeepsNoFrame(t *testing.T) {
	for _, compat := range []string{"", compatPlugin} {
		o := newOdd(t, func(o *Options) { o.Compat = compat })
		const frames, size = 16, maxFrame - 2000
		pad := strings.Repeat("x", size)
		before := heap()
		for i := range frames {
			o.take(fmt.Sprintf(`{"current":{"state":{"flags":{"operational":true}},"job":{"file":{"path":"p%d","origin":"local"}},"progress":{"completion":%d,"printTimeLeftOrigin":"o%d"},
				"temps":[{"time":%d,"h%d":{"actual":1.5,"target":2}}],"pad":%q}}`, i, i, i, i+1, i, pad))
			o.take(fmt.Sprintf(`{"event":{"type":"Connected","payload":{"port":"/dev/%d","pad":%q}}}`, i, pad))
			o.take(fmt.Sprintf(`{"connected":{"version":"1.%d","pad":%q}}`, i, pad))
		}
		if grown := heap() - before; grown > 5*size {
			t.Errorf("compat %q: %d bytes are kept of %d frames", compat, grown, frames)
		}
		runtime.KeepAlive(o)
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestInfiniteNumbersStopNoState: 1e999 is JSON.
func TestInfiniteNumbersStopNoState(t *testing.T) {
	o := newOdd(t)
	o.take(`{"event":{"type":"Connected","payload":{"port":"/dev/tty","baudrate":1e999}}}`)
	r := o.take(`{"current":{"state":{"flags":{"operational":true}},"progress":{"completion":1e999,"printTime":-1e999,"printTimeLeft":1e999,"printTimeLeftOrigin":{"a":1}},"temps":[{"time":1,"bed":{"actual":1e999,"target":0},"tool0":{"actual":1,"target":0}}]}}`)
	got := map[string]string{}
	for _, st := range r.states {
		got[st.Key] = string(st.Payload)
		if !gjson.ValidBytes(st.Payload) {
			t.Errorf("%s: %s", st.Key, st.Payload)
		}
	}
	if got["connection"] != `{"port":"/dev/tty","state":"connected"}` || got["temperature/tool0"] == "" || got["temperature/bed"] != "" || !strings.Contains(got["progress"], `"printTimeLeftOrigin":null,"eta":null`) {
		t.Errorf("%q", got)
	}
}

// TestWithCompatAnEventMayNotChooseATopicOfTheProgram, and may have one that the
// configuration chose.
func TestWithCompatAnEventMayNotChooseATopicOfTheProgram(t *testing.T) {
	for template, want := range map[string]event.Route{
		"{event}": {Topic: "octoPrint/mqtt", Outside: true},
		"all":     {Topic: "octoPrint/all"},
	} {
		o := newOdd(t, func(o *Options) { o.Compat, o.Plugin.EventTopic = compatPlugin, template })
		r := o.tr.frame(frame{Event: &happening{"mqtt", []byte(`{}`)}}, time.Now())
		r.join(o.tr.finish())
		if len(r.events) != 1 || r.events[0].Route != want {
			t.Errorf("%s: %+v, want %+v", template, r.events, want)
		}
	}
}

// TestTheNameOfAHeaterForPeopleIsText, whatever it begins with.
func TestTheNameOfAHeaterForPeopleIsText(t *testing.T) {
	for key, want := range map[string]string{"tool0": "Tool 0", "tool": "Tool", "bed": "Bed", "öfen": "Öfen", "1": "1"} {
		if got := heaterName(key); got != want || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("%s: %q", key, got)
		}
	}
}

// TestAPictureThatIsAskedForAtOnceIsWaitedFor: a command may come before the
// goroutine that takes pictures has begun.
func TestAPictureThatIsAskedForAtOnceIsWaitedFor(t *testing.T) {
	g := newGallery(&Options{}, &settings{}, nil, zerolog.Nop())
	g.begin(t.Context())
	go func() { (<-g.asked) <- shot{size: 7} }()
	if size, err := g.ask(t.Context()); size != 7 || err != nil {
		t.Errorf("%d, %v", size, err)
	}
}
