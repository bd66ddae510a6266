package topic_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"event2mqtt/internal/topic"
)

func TestRender(t *testing.T) {
	values := topic.Values{Event: "PrintStarted", Source: "my printer", Payload: []byte(`{"bed":60.5,"file":{"name":"a/b.gcode"},"on":true,"n":null,"list":[1]}`)}
	for template, want := range map[string]string{
		"{base}/event/{event}":              "home/printer/event/PrintStarted",
		"{base}/event/{event|lower}":        "home/printer/event/printstarted",
		"{base}/event/{event|snake}":        "home/printer/event/print_started",
		"{base}/{source}/{event}":           "home/printer/my_printer/PrintStarted",
		"x{event}":                          "xPrintStarted",
		"a/{payload.bed}/{payload.on}":      "a/60_5/true",
		"a/{payload.file.name}":             "a/a_b_gcode",
		"a/{payload.n}/{payload.list}":      "a/unknown/unknown",
		"a/{payload.none|lower}/z":          "a/unknown/z",
		"plain/topic":                       "plain/topic",
		"{base}":                            "home/printer",
		"octoPrint/event/{event|snake}/raw": "octoPrint/event/print_started/raw",
	} {
		tmpl, err := topic.Parse(template, "home/printer")
		if err != nil {
			t.Errorf("%s: %v", template, err)
			continue
		}
		if got, err := tmpl.Render(values); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", template, got, err, want)
		}
	}
}

func TestBadTemplatesSayWhatIsWrong(t *testing.T) {
	for template, reason := range map[string]string{
		"":                  "empty",
		"{event}/x":         "must begin with a fixed text",
		"{base}/{evnt}":     "unknown placeholder {evnt}; there are {base}, {event}",
		"{base}/{event":     "'{' without '}'",
		"{base}/event}":     "'}' without '{'",
		"{base}/{event|up}": "unknown filter \"up\"",
		"{base}/+/{event}":  "wildcards",
		"$SYS/{event}":      "belong to the broker",
		"/x/{event}":        "begin with '/'",
		"x//{event}":        "without a name",
		"{base}/{payload.}": "payload key",
		"x/{payload.a#b}":   "payload key",
		"x\x00/{event}":     "control",
		"{evnt}/{event|up|lower|down}/{payload.}//x}": "unknown placeholder {evnt}; there are {base}, {event}, {source} and {payload.KEY}; {event|up|lower|down}: unknown filter \"up\", \"down\"; there are lower and snake; " +
			"{payload.}: a payload key may hold letters, digits, '_' and '-', with dots between levels; '}' without '{'; it must begin with a fixed text such as {base}/, so that no event can choose its own place; has a level without a name",
	} {
		if _, err := topic.Parse(template, "b"); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: error %v does not say %q", template, err, reason)
		}
	}
}

func TestNamesKeepTheirSpellingOrBecomeSafe(t *testing.T) {
	for name, want := range map[string]string{
		"PrintStarted":                           "PrintStarted",
		"plugin_softwareupdate_update_succeeded": "plugin_softwareupdate_update_succeeded",
		"a-b_C9":                                 "a-b_C9",
		"größe":                                  "größe",
		"a/b":                                    "a_b", "a+b": "a_b", "a#": "a_", "a b": "a_b", "a.b": "a_b", "a*>": "a__", "$SYS": "_SYS", "cost$": "cost$",
		"\x00x": "_x", "\xff": "_", "": "_", "a\u2028b": "a_b", "..": "__",
	} {
		if got := topic.Safe(name); got != want {
			t.Errorf("Safe(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestSnake(t *testing.T) {
	for name, want := range map[string]string{
		"PrintStarted": "print_started", "ZChange": "z_change", "HTTPError": "http_error", "EStop": "e_stop",
		"already_snake": "already_snake", "plugin_X": "plugin_x", "": "", "A": "a", "MovieDone2": "movie_done2",
	} {
		if got := topic.Snake(name); got != want {
			t.Errorf("Snake(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestLimitsAreErrorsOfTheOneEvent(t *testing.T) {
	tmpl, err := topic.Parse("b/{event}", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tmpl.Render(topic.Values{Event: strings.Repeat("x", 70000)}); err == nil || !strings.Contains(err.Error(), "at most 65535") {
		t.Errorf("got %v", err)
	}
	if err := topic.Check(strings.Repeat("a/", 200) + "a"); err == nil || !strings.Contains(err.Error(), "201 levels") {
		t.Errorf("got %v", err)
	}
}

// FuzzConfinement: whatever the names and payload hold, a rendered topic is
// publishable, has the template's number of levels, and keeps its beginning.
func FuzzConfinement(f *testing.F) {
	f.Add("{base}/event/{event}", "PrintStarted", "src", `{"a":"x"}`)
	f.Add("{base}/{source|snake}/{payload.a|lower}", "../#", "+/$", `{"a":"/+#\u0000"}`)
	f.Fuzz(func(t *testing.T, template, name, source, value string) {
		tmpl, err := topic.Parse(template, "base/of/it")
		if err != nil {
			return
		}
		got, err := tmpl.Render(topic.Values{Event: name, Source: source, Payload: []byte(value)})
		if err != nil {
			return
		}
		reference, err := tmpl.Render(topic.Values{Event: "E", Source: "S", Payload: []byte(`{}`)})
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(got, "/") != strings.Count(reference, "/") {
			t.Fatalf("%q rendered %q: other levels than %q", template, got, reference)
		}
		if !strings.HasPrefix(got, tmpl.Prefix()) || strings.ContainsAny(got, "+#\x00") || got[0] == '$' || !utf8.ValidString(got) {
			t.Fatalf("%q rendered the unsafe %q", template, got)
		}
	})
}

func TestStateTemplatesTellStatesApart(t *testing.T) {
	for text, want := range map[string]string{
		"{base}/{source}/{key}":             "base/a_b/temperature/bed_1",
		"{base}/{key|snake}/of/{source}":    "base/temperature/bed_1/of/a_b",
		"x/{source|lower}-{key}":            "x/a_b-temperature/bed_1",
		"{base}/{source}":                   "",
		"{base}/{key}":                      "",
		"{base}/x":                          "",
		"{source}/{key}":                    "",
		"{base}/{event}/{source}/{key}":     "",
		"{base}/{payload.x}/{source}/{key}": "",
		"{base}/{source}/{key|upper}":       "",
	} {
		template, err := topic.ParseState(text, "base")
		if (err == nil) != (want != "") {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil {
			continue
		}
		if got, err := template.Render(topic.Values{Source: "a/b", Key: "temperature/bed 1"}); err != nil || got != want {
			t.Errorf("%s gives %s, %v", text, got, err)
		}
	}
	if _, err := topic.Parse("{base}/{key}", "base"); err == nil {
		t.Error("an event has a key")
	}
}

// TestAFilterHasAllTopicsOfASource, and tells sources apart where topics do.
func TestAFilterHasAllTopicsOfASource(t *testing.T) {
	for _, c := range []struct {
		template, filter string
		apart, exact     bool
	}{
		{"{base}/event/{event}", "b/event/+", false, true},
		{"{base}/{source}/event/{event}", "b/a/event/+", true, true},
		{"{base}/{source|lower}/{event|snake}", "b/a/+", true, false},
		{"{base}/{source}-{event}", "b/+", false, true},
		{"{base}/{payload.room}/{source}/{event}", "b/+/a/+", true, false},
	} {
		tmpl, err := topic.Parse(c.template, "b")
		if err != nil {
			t.Fatal(err)
		}
		one, other := tmpl.Filter("a"), tmpl.Filter("c")
		if one != c.filter || topic.Overlap(one, other) == c.apart || !topic.Overlap(one, one) {
			t.Errorf("%s: %s and %s overlap: %v", c.template, one, other, topic.Overlap(one, other))
		}
		if at, exact := tmpl.Of("a", "Done"); exact != c.exact || exact && !strings.Contains(at, "Done") {
			t.Errorf("%s: the topic of Done is %s, alone: %v", c.template, at, exact)
		}
		if _, exact := tmpl.Of("a", "a b"); exact {
			t.Errorf("%s: a b has a topic of its own, and so has a_b", c.template)
		}
	}
	if topic.Overlap("a/+", "a/b/c") || topic.Overlap("a", "a/+") || !topic.Overlap("+/b", "a/+") {
		t.Error("filters overlap that do not, or the reverse")
	}
}
