package webhook_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/webhook"
)

// many joins what item gives for 0 to n-1.
func many(n int, separator string, item func(i int) string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(separator)
		}
		b.WriteString(item(i))
	}
	return b.String()
}

func is(text string) func(int) string { return func(int) string { return text } }
func number(format string) func(int) string {
	before, after, _ := strings.Cut(format, "N")
	return func(i int) string { return before + strconv.Itoa(i) + after }
}

type hostileBody struct {
	name, contentType, body string
	packed                  bool
	change                  func(*webhook.Config)
	status                  int
}

// TestHostileBodiesTakeLittleMemory: a request with any body allocates less
// than 64 MiB in all, garbage included, and is answered.
func TestHostileBodiesTakeLittleMemory(t *testing.T) {
	const mib = 1<<20 - 200
	unpacked, large := 8<<20-100, 24<<20
	if raceEnabled { // each byte takes ten times as long
		unpacked, large = 2<<20-100, 2<<20
	}
	split := func(c *webhook.Config) { c.Split = "alerts" }
	form := asForm
	parts := "multipart/form-data; boundary=b"
	for _, c := range []hostileBody{
		{"array of numbers", asJSON, "[" + strings.Repeat("1,", unpacked/2-2) + "1]", true, nil, 413},
		{"array of objects", asJSON, "[" + strings.Repeat("{},", unpacked/3-2) + "{}]", true, nil, 413},
		{"objects one behind another", asJSON, strings.Repeat("{}", unpacked/2), true, nil, 413},
		{"arrays one behind another", asJSON, strings.Repeat("[1]", unpacked/3), true, nil, 413},
		{"lines", "application/x-ndjson", strings.Repeat("1\n", unpacked/2), true, nil, 413},
		{"white space", asJSON, strings.Repeat(" ", unpacked-2) + "{}", true, nil, 202},
		{"nesting", asJSON, strings.Repeat("[", unpacked), true, nil, 400},
		{"nesting of objects", asJSON, strings.Repeat(`{"a":`, unpacked/5), true, nil, 400},
		{"keys", asJSON, "{" + many(unpacked/12, ",", number(`"N":1`)) + "}", true, nil, 413},
		{"escaped keys", asJSON, "{" + many(mib/20, ",", number(`"\u0041N":1`)) + "}", false, nil, 202},
		{"a long key", asJSON, `{"` + strings.Repeat("k", unpacked-8) + `":1}`, true, nil, 413},
		{"a long name", asJSON, `{"event":"` + strings.Repeat("k", mib-20) + `"}`, false, nil, 400},
		{"not UTF-8", asJSON, `"` + strings.Repeat("\x80", unpacked-2) + `"`, true, nil, 413},
		{"a text of control characters", "text/plain", strings.Repeat("\x01", unpacked), true, nil, 413},
		{"NULs", "text/plain", strings.Repeat("\x00", mib), false, nil, 202},
		{"UTF-16", "text/plain", "\xff\xfe" + strings.Repeat("\x00\x20", unpacked/2-2), true, nil, 413},
		{"fields", form, strings.Repeat("a=1&", mib/4), false, nil, 400},
		{"different fields", form, many(mib/9, "&", number("N=1")), false, nil, 400},
		{"a packed form", form, strings.Repeat("a=%00", unpacked/5), true, nil, 413},
		{"escapes in a form", form, "a=" + strings.Repeat("%01", mib/3), false, nil, 413},
		{"parts", parts, strings.Repeat("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n", 19000) + "--b--", false, nil, 400},
		{"files", parts, strings.Repeat("--b\r\nContent-Disposition: form-data; name=\"a\"; filename=\"x\"\r\n\r\n1\r\n", large/70) + "--b--", false, nil, 400},
		{"a part's headers", parts, "--b\r\n" + strings.Repeat("A: b\r\n", large/6), false, nil, 400},
		{"a part's long header", parts, "--b\r\nA: " + strings.Repeat("b", large), false, nil, 413},
		{"no part", parts, strings.Repeat("x", large), false, nil, 400},
		{"a packed multipart form", parts, strings.Repeat("--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n", 150000) + "--b--", true, nil, 400},
		{"XML's attributes", "text/xml", "<a" + strings.Repeat(" b=''", mib/5) + "/>", false, nil, 400},
		{"XML's elements", "text/xml", "<a>" + strings.Repeat("<b/>", mib/4), false, nil, 400},
		{"XML's depth", "text/xml", strings.Repeat("<b>", mib/3), false, nil, 400},
		{"XML's depth around much", "text/xml", strings.Repeat("<b>", 50) + strings.Repeat("x", mib-500) + strings.Repeat("</b>", 50), false, nil, 202},
		{"XML's entities", "text/xml", `<!DOCTYPE a [<!ENTITY l "lol"><!ENTITY m "&l;&l;&l;&l;&l;&l;&l;&l;">]><a>&m;&m;&m;</a>`, false, nil, 400},
		{"large XML", "text/xml", "<a>" + strings.Repeat("x", unpacked-10) + "</a>", true, nil, 400},
		{"split into many", asJSON, `{"alerts":[` + strings.Repeat("1,", unpacked/2-20) + "1]}", true, split, 413},
		{"split beside much", asJSON, `{"r":"` + strings.Repeat("x", mib-4000) + `","alerts":[` + many(999, ",", is("{}")) + "]}", false, split, 413},
		{"split beside many", asJSON, "{" + many(unpacked/12, ",", number(`"N":1`)) + `,"alerts":[{},{}]}`, true, split, 413},
		{"split of large items", asJSON, `{"a":1,"alerts":[{` + many(unpacked/12, ",", number(`"N":1`)) + "}]}", true, split, 413},
		{"a text of JSON", asJSON, `{"m":"[` + strings.Repeat("1,", mib/2-20) + `1]"}`, false, func(c *webhook.Config) { c.Parse = []string{"m"} }, 202},
	} {
		t.Run(c.name, c.send)
	}
}

func (c hostileBody) send(t *testing.T) {
	config := webhook.Defaults()
	config.Name, config.Event.Default = "test", "D"
	if c.change != nil {
		c.change(&config)
	}
	s, err := webhook.New(config, nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	body := []byte(c.body)
	r := httptest.NewRequest(http.MethodPost, "/hooks/test", nil)
	if c.packed {
		body = pack(c.body)
		r.Header.Set("Content-Encoding", "gzip")
	}
	r.Header.Set("Content-Type", c.contentType)
	r.Body, r.ContentLength = http.NoBody, -1
	r = r.WithContext(t.Context())
	r.Body = nopCloser{bytes.NewReader(body)}
	w := httptest.NewRecorder()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s.Handler(&output{}).ServeHTTP(w, r)
	runtime.ReadMemStats(&after)
	if w.Code != c.status {
		t.Errorf("status %d, want %d: %.300s", w.Code, c.status, w.Body)
	}
	if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took >= 64 {
		t.Errorf("it allocated %d MiB", took)
	}
}

// TestAttributesOfXMLAreCountedBeforeTheyAreMade: those of one tag, behind
// whatever could hide it.
func TestAttributesOfXMLAreCountedBeforeTheyAreMade(t *testing.T) {
	attributes := strings.Repeat(" b=\"\"", (1<<20-200)/5)
	for name, body := range map[string]string{
		"plain":            "<a" + attributes + "/>",
		"tight":            "<a" + strings.Repeat(" b=''", (1<<20-200)/5) + "/>",
		"with > in values": "<a" + strings.Repeat(" b='>'", (1<<20-200)/6) + "/>",
		"with quotes":      "<a" + strings.Repeat(" b='\"'", (1<<20-200)/6) + "/>",
		"behind CDATA":     `<a><![CDATA[ <x a=" ]]><b` + attributes + "/></a>",
		"behind a comment": `<!-- <![CDATA[ " --><a` + attributes + "/>",
		"behind a DTD":     `<!DOCTYPE a "> <![CDATA[ "><a` + attributes + "/>",
		"behind a text":    `<a>"<b` + attributes + "/></a>",
		"no end":           "<a" + attributes,
	} {
		s := handler(t)
		r := httptest.NewRequest(http.MethodPost, "/hooks/test", strings.NewReader(body))
		r.Header.Set("Content-Type", "text/xml")
		w := httptest.NewRecorder()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		s.ServeHTTP(w, r)
		runtime.ReadMemStats(&after)
		if w.Code != 400 || !strings.Contains(w.Body.String(), "attributes") {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took >= 8 {
			t.Errorf("%s: it allocated %d MiB", name, took)
		}
	}
	for name, body := range map[string]string{
		"signs in a text": "<a>" + strings.Repeat("=", 50000) + "</a>", "in a value": "<a b='" + strings.Repeat("=", 50000) + "'/>",
		"many attributes": "<a" + many(5000, "", number(` bN=""`)) + "/>",
	} {
		r := httptest.NewRequest(http.MethodPost, "/hooks/test", strings.NewReader(body))
		r.Header.Set("Content-Type", "text/xml")
		w := httptest.NewRecorder()
		if handler(t).ServeHTTP(w, r); w.Code != 202 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

// handler is that of a source whose events have a name in any case.
func handler(t *testing.T) http.Handler {
	t.Helper()
	config := webhook.Defaults()
	config.Name, config.Event.Default = "test", "D"
	s, err := webhook.New(config, nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	return s.Handler(&output{})
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }

func pack(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	w.Close()
	return b.Bytes()
}

func TestEventsAreCountedBeforeTheyAreMade(t *testing.T) {
	s := start(t, func(c *webhook.Config) { c.MaxEvents, c.Event.Default, c.Split = 3, "D", "list" })
	for body, want := range map[string]int{
		`[1,2,3]`: 202, `[1,2,3,4]`: 413, `{"a":1}{}{}`: 202, `{}{}{}{}`: 413, `[1,2][3]`: 202, `[1,2][3,4]`: 413,
		`{"list":[1,2,3]}`: 202, `{"list":[1,2,3,4]}`: 413, `[{"list":[1,2]},{"list":[3,4]}]`: 413,
	} {
		before := len(s.out.events)
		status, text := s.post(t, "", asJSON, body)
		if status != want || status == 413 && !strings.Contains(text, "max_events") {
			t.Errorf("%s: %d %s", body, status, text)
		}
		if n := len(s.out.events) - before; n != map[int]int{202: 3, 413: 0}[want] {
			t.Errorf("%s: %d events", body, n)
		}
	}
}

// waiting is an output that stores nothing until it may.
type waiting struct {
	output
	begun chan struct{}
	may   chan struct{}
}

func (o *waiting) Emit(ctx context.Context, events ...event.Event) (sources.Receipt, error) {
	o.begun <- struct{}{}
	<-o.may
	return o.output.Emit(ctx, events...)
}

// TestLargeBodiesAreWorkedOnAFewAtATime: many senders of packed bodies take no
// more memory than one, and small ones do not wait for them.
func TestLargeBodiesAreWorkedOnAFewAtATime(t *testing.T) {
	config := webhook.Defaults()
	config.Name, config.Event.Default = "test", "D"
	s, err := webhook.New(config, nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	out := &waiting{begun: make(chan struct{}, 8), may: make(chan struct{})}
	h := s.Handler(out)
	post := func(body []byte, encoding string) int {
		r := httptest.NewRequest(http.MethodPost, "/hooks/test", bytes.NewReader(body))
		r.Header.Set("Content-Encoding", encoding)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	large := pack(strings.Repeat(" ", 1<<20) + "{}")
	var all sync.WaitGroup
	all.Go(func() { post(large, "gzip") })
	<-out.begun // and has its share
	for range 3 {
		all.Go(func() {
			if status := post(large, "gzip"); status != 202 {
				t.Errorf("status %d", status)
			}
		})
	}
	all.Go(func() { post([]byte("{}"), "") })
	<-out.begun // the small one: the large ones wait
	select {
	case <-out.begun:
		t.Error("another large body is worked on")
	default:
	}
	close(out.may)
	all.Wait()
	if n := len(out.events); n != 5 {
		t.Errorf("%d events", n)
	}
}

// TestBodiesWeighWhatTheyMayBecome: of those that grow the most, one is worked
// on at a time, and two of JSON.
func TestBodiesWeighWhatTheyMayBecome(t *testing.T) {
	parts := func(text string) string {
		return "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n" + text + "\r\n--b--\r\n"
	}
	const size = 1000 << 10
	for _, c := range []struct {
		name, contentType, body string
		most                    int
	}{
		{"JSON", asJSON, `"` + strings.Repeat("x", size) + `"`, 2},
		{"not UTF-8", asJSON, `"` + "\xe4" + strings.Repeat(" ", size) + `"`, 1},
		{"a form", asForm, "a=" + strings.Repeat("x", size), 1},
		{"XML", "text/xml", "<a>" + strings.Repeat("x", size) + "</a>", 1},
		{"UTF-16", "text/plain; charset=utf-16le", strings.Repeat("x\x00", size/2), 1},
		{"multipart", "multipart/form-data; boundary=b", parts(strings.Repeat("x", size)), 1},
	} {
		config := webhook.Defaults()
		config.Name, config.Event.Default = "test", "D"
		s, err := webhook.New(config, nil, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		out := &waiting{begun: make(chan struct{}), may: make(chan struct{})}
		h := s.Handler(out)
		post := func(ctx context.Context) int {
			r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/hooks/test", strings.NewReader(c.body))
			r.Header.Set("Content-Type", c.contentType)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code
		}
		var all sync.WaitGroup
		for i := range c.most {
			all.Go(func() {
				if status := post(t.Context()); status != 202 {
					t.Errorf("%s %d: status %d", c.name, i, status)
				}
			})
			select {
			case <-out.begun:
			case <-time.After(time.Minute):
				t.Fatalf("%s: fewer than %d are worked on", c.name, c.most)
			}
		}
		more, cancel := context.WithCancel(t.Context())
		status := make(chan int)
		go func() { status <- post(more) }()
		time.AfterFunc(50*time.Millisecond, cancel) // it waits until its sender gives up
		select {
		case got := <-status:
			if got != 503 {
				t.Errorf("%s: one more got status %d", c.name, got)
			}
			close(out.may)
		case <-out.begun:
			t.Errorf("%s: more than %d are worked on", c.name, c.most)
			close(out.may)
			<-status
		}
		all.Wait()
	}
}

func TestAPackedBodyIsUnpackedIntoOnePiece(t *testing.T) {
	if raceEnabled {
		t.Skip("the detector allocates, too")
	}
	body := pack(many(800, "\n", func(int) string { return `{"a":"` + strings.Repeat("x", 8000) + `"}` }))
	liar := append(bytes.Clone(body[:len(body)-4]), 0xff, 0xff, 0xff, 0xff)
	two := append(bytes.Clone(body), pack("")...) // which says 0
	for name, c := range map[string]struct {
		body   []byte
		status int
	}{"a true size": {body, 202}, "a false size": {liar, 400}, "two one behind another": {two, 202}} {
		r := httptest.NewRequest(http.MethodPost, "/hooks/test", bytes.NewReader(c.body))
		r.Header.Set("Content-Encoding", "gzip")
		r.Header.Set("Content-Type", "application/x-ndjson")
		h, w := handler(t), httptest.NewRecorder()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		h.ServeHTTP(w, r)
		runtime.ReadMemStats(&after)
		if w.Code != c.status {
			t.Errorf("%s: %d %.200s", name, w.Code, w.Body)
		}
		if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took >= 16 { // 6 MiB or, where the size is not known, 8; and 6 for the events
			t.Errorf("%s: it allocated %d MiB", name, took)
		}
	}
}

// TestWhatWaitsIsNotYetUnpacked: a packed body that waits for others is as small
// as it came.
func TestWhatWaitsIsNotYetUnpacked(t *testing.T) {
	if raceEnabled {
		t.Skip("the detector allocates, too")
	}
	config := webhook.Defaults()
	config.Name, config.Event.Default = "test", "D"
	s, err := webhook.New(config, nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	out := &waiting{begun: make(chan struct{}), may: make(chan struct{})}
	h := s.Handler(out)
	large := pack(strings.Repeat(" ", 1<<20) + "{}")
	post := func(ctx context.Context) int {
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/hooks/test", bytes.NewReader(large))
		r.Header.Set("Content-Encoding", "gzip")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	var all sync.WaitGroup
	all.Go(func() { post(t.Context()) })
	<-out.begun // and has the whole budget
	const senders = 32
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range senders {
		if status := post(short); status != 503 {
			t.Errorf("status %d", status)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / senders; each > 32<<10 {
		t.Errorf("each took %d KiB", each>>10)
	}
	close(out.may)
	all.Wait()
}

// unsent is an output whose events are delivered when they may be.
type unsent struct {
	output
	asked chan struct{}
	may   chan struct{}
}

func (o *unsent) Emit(ctx context.Context, events ...event.Event) (sources.Receipt, error) {
	_, err := o.output.Emit(ctx, events...)
	return o, err
}

func (o *unsent) Delivered(context.Context) error {
	o.asked <- struct{}{}
	<-o.may
	return nil
}

// TestTheNextLargeBodyWaitsUntilTheLastIsSent: who sends it reads it once more
// into memory. Small ones do not wait.
func TestTheNextLargeBodyWaitsUntilTheLastIsSent(t *testing.T) {
	config := webhook.Defaults()
	config.Name, config.Event.Default = "test", "D"
	s, err := webhook.New(config, nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	out := &unsent{asked: make(chan struct{}, 8), may: make(chan struct{})}
	h := s.Handler(out)
	post := func(ctx context.Context, body []byte) int {
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/hooks/test", bytes.NewReader(body))
		r.Header.Set("Content-Encoding", "gzip")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	large := pack(many(4, "\n", is(`{"a":"`+strings.Repeat("x", 1000<<10)+`"}`)))
	var all sync.WaitGroup
	all.Go(func() {
		if status := post(t.Context(), large); status != 202 {
			t.Errorf("status %d", status)
		}
	})
	select {
	case <-out.asked:
	case <-time.After(time.Minute):
		t.Fatal("nothing waits until the first is sent")
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if status := post(short, large); status != 503 {
		t.Errorf("another large one: status %d", status)
	}
	if status := post(t.Context(), pack("{}")); status != 202 {
		t.Errorf("a small one: status %d", status)
	}
	close(out.may)
	all.Wait()
	if status := post(t.Context(), large); status != 202 {
		t.Errorf("afterwards: status %d", status)
	}
}

// TestALargeBodyDoesNotWaitForABrokerThatIsAway for ever.
func TestALargeBodyDoesNotWaitForABrokerThatIsAway(t *testing.T) {
	s := start(t, func(c *webhook.Config) { c.Event.Default = "D" }) // whose events are never delivered
	body := pack(many(3, "\n", is(`{"a":"`+strings.Repeat("x", 1000<<10)+`"}`)))
	if status, text := s.post(t, "", asJSON, string(body), "Content-Encoding", "gzip"); status != 202 {
		t.Errorf("status %d: %s", status, text)
	}
}

func BenchmarkPost(b *testing.B) {
	config := webhook.Defaults()
	config.Name = "test"
	s, err := webhook.New(config, nil, zerolog.Nop())
	if err != nil {
		b.Fatal(err)
	}
	h := s.Handler(nothing{})
	body := []byte(`{"event":"Bench","padding":"` + strings.Repeat("x", 227) + `"}`)
	reader := bytes.NewReader(body)
	r := httptest.NewRequest(http.MethodPost, "/hooks/test", nil)
	r.Header.Set("Content-Type", asJSON)
	r.ContentLength = int64(len(body))
	w := &discard{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		reader.Reset(body)
		r.Body = nopCloser{reader}
		h.ServeHTTP(w, r)
	}
}

type nothing struct{ sources.Output }

func (nothing) Emit(context.Context, ...event.Event) (sources.Receipt, error) { return nil, nil }

type discard struct{ h http.Header }

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
