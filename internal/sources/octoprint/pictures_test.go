package octoprint_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/octoprint"
)

// jpeg is as much of a picture as anybody looks at.
const jpeg = "\xff\xd8\xff\xe0 a picture "

// webcam gives pictures, each another.
type webcam struct {
	mu     sync.Mutex
	taken  int
	answer http.HandlerFunc // in place of a picture
	seen   []http.Header
}

func (c *webcam) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.taken++
	n, answer := c.taken, c.answer
	c.seen = append(c.seen, r.Header.Clone())
	c.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	w.Header().Set("Content-Type", "image/jpeg")
	fmt.Fprint(w, jpeg, n)
}

func (c *webcam) asked() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken
}

// studio is a printer with a webcam that OctoPrint asks, and a source.
type studio struct {
	*server
	*webcam
	out  *output
	log  *locked
	told sources.Commander
	peer *peer
	stop func()
}

const cameraPath = "GET /downloads/camera/current"

func newStudio(t *testing.T, change func(*octoprint.Options), more map[string]http.HandlerFunc) *studio {
	t.Helper()
	c := &studio{webcam: &webcam{}, out: newOutput(), log: &locked{b: &bytes.Buffer{}}}
	c.server = newServer(t, func(s *server) {
		s.more = map[string]http.HandlerFunc{cameraPath: c.ServeHTTP}
		for pattern, answer := range more {
			s.more[pattern] = answer
		}
	})
	c.told, c.stop = command(t, options(c.url(), change), c.out, c.log)
	c.peer = c.next()
	c.peer.send(snapshot("history", "Operational", "", 1000))
	until(t, "it is up", func() bool { return c.out.status().Level == health.Up })
	return c
}

func (c *studio) ask() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	reply, err := c.told.Do(ctx, event.Command{Name: "snapshot"})
	return string(reply), err
}

// TestNoPictureIsTakenUnlessAskedFor: it is off by default.
func TestNoPictureIsTakenUnlessAskedFor(t *testing.T) {
	c := newStudio(t, func(*octoprint.Options) {}, nil)
	c.peer.send(snapshot("current", "Printing", "a.gcode", 1001))
	c.peer.send(happened("PrintStarted", `{"path":"a.gcode"}`))
	wantNames(t, c.out, "PrintStarted")
	c.stop()
	if c.asked() != 0 || c.out.state("snapshot") != "none" || c.out.state("thumbnail") != "none" {
		t.Error("there is a picture")
	}
	if slices.ContainsFunc(c.out.described().Entities, func(e device.Entity) bool { return e.Kind == device.Image }) {
		t.Error("the device has pictures")
	}
}

// TestAPictureIsPublishedAtTheEventsThatAreNamed, and at no others, nor at those
// that were missed.
func TestAPictureIsPublishedAtTheEventsThatAreNamed(t *testing.T) {
	c := newStudio(t, func(o *octoprint.Options) { o.Snapshot.Events = []string{"PrintDone", "Print*ed"} }, nil)
	c.peer.send(happened("Alert", `null`))
	c.peer.send(happened("PrintStarted", `{"path":"a.gcode","late":true}`))
	wantNames(t, c.out, "Alert", "PrintStarted")
	c.peer.send(happened("PrintPaused", `{"path":"a.gcode"}`))
	until(t, "there is a picture", func() bool { return c.out.state("snapshot") == jpeg+"1" })
	c.peer.send(happened("PrintDone", `{"path":"a.gcode"}`))
	until(t, "there is another", func() bool { return c.out.state("snapshot") == jpeg+"2" })
	want := device.Entity{Key: "snapshot", Name: "Webcam", State: "snapshot", Kind: device.Image}
	if d := c.out.described(); !slices.ContainsFunc(d.Entities, func(e device.Entity) bool { return e.Key == want.Key && e.Kind == want.Kind && e.State == want.State }) {
		t.Errorf("%+v", d.Entities)
	}
}

// TestABurstOfEventsMakesFewPictures: one at once, and one of how it has ended,
// if that was not seen in the first.
func TestABurstOfEventsMakesFewPictures(t *testing.T) {
	c := newStudio(t, func(o *octoprint.Options) { o.Snapshot.Events = []string{"ZChange"} }, nil)
	for i := range 100 {
		c.peer.send(happened("ZChange", fmt.Sprintf(`{"new":%d}`, i)))
	}
	until(t, "all events came", func() bool { return len(c.out.names()) == 100 })
	until(t, "there is a picture", func() bool { return c.asked() > 0 })
	if n := c.asked(); n > 10 { // two but on a machine that is very busy
		t.Errorf("%d pictures", n)
	}
	before := c.asked()
	c.peer.send(happened("ZChange", `{"new":100}`))
	until(t, "the next event has its picture, too", func() bool { return c.asked() > before })
}

// TestPicturesComeWhilePrinting, and not while a print is paused, or when it is
// over.
func TestPicturesComeWhilePrinting(t *testing.T) {
	c := newStudio(t, func(o *octoprint.Options) { o.Snapshot.Every = time.Second }, nil)
	printing := func(state string) {
		c.peer.send(snapshot("current", state, "a.gcode", 1001))
		time.Sleep(5 * time.Millisecond)
	}
	until(t, "there are three pictures", func() bool {
		printing("Printing")
		return c.asked() >= 3 && strings.HasPrefix(c.out.state("snapshot"), jpeg)
	})
	printing("Paused")
	until(t, "it has seen that", func() bool { return strings.Contains(c.out.state("state"), "Paused") })
	n := c.asked()
	for end := time.Now().Add(1500 * time.Millisecond); time.Now().Before(end); {
		printing("Paused")
	}
	if more := c.asked(); more > n+1 { // one may be on its way
		t.Errorf("%d pictures while it is paused", more-n)
	}
}

// TestACommandTakesAPicture, also when none are taken else, and says why there is
// none.
func TestACommandTakesAPicture(t *testing.T) {
	c := newStudio(t, commandOptions, nil)
	pictured := func() bool {
		return slices.ContainsFunc(c.out.described().Entities, func(e device.Entity) bool { return e.Key == "snapshot" })
	}
	if !pictured() {
		t.Error("the device has no picture")
	}
	if reply, err := c.ask(); err != nil || reply != `{"bytes":16}` || c.out.state("snapshot") != jpeg+"1" {
		t.Errorf("%s, %v, %q", reply, err, c.out.state("snapshot"))
	}
	c.stop()
	if _, err := c.ask(); err == nil || !strings.Contains(err.Error(), "does not connect to OctoPrint just now") {
		t.Error(err)
	}
}

// TestACommandThatIsAllowedLaterShowsItsPicture: that does not restart the source.
func TestACommandThatIsAllowedLaterShowsItsPicture(t *testing.T) {
	c := newStudio(t, func(*octoprint.Options) {}, nil)
	if _, err := c.ask(); err != nil {
		t.Fatal(err)
	}
	c.peer.send(snapshot("current", "Operational", "", 1001))
	until(t, "the device has a picture", func() bool {
		return slices.ContainsFunc(c.out.described().Entities, func(e device.Entity) bool { return e.Key == "snapshot" })
	})
}

// TestWhatIsNoPictureIsNotPublished: too large, a page, a stream, a lie. The
// picture before stays, and each cause is said once.
func TestWhatIsNoPictureIsNotPublished(t *testing.T) {
	say := func(status int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"too large": {say(200, "image/jpeg", jpeg+strings.Repeat("x", 2000)), "it has 2015 bytes; snapshot.max_size allows 1024"},
		"too large, in pieces": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "image/jpeg")
			for r.Context().Err() == nil {
				fmt.Fprint(w, jpeg)
				_ = http.NewResponseController(w).Flush()
			}
		}, "it has more bytes than the 1024 that snapshot.max_size allows"},
		"a page":        {say(200, "text/html", "<html>"), `it is no picture, but "text/html"`},
		"no kind":       {say(200, "", jpeg), "it is no picture"},
		"a stream":      {say(200, "multipart/x-mixed-replace;boundary=b", "--b"), "it is a stream; give the address of single pictures"},
		"a lie":         {say(200, "image/jpeg", "<html>"), "it is no picture, though it is called one"},
		"nothing":       {say(200, "image/jpeg", ""), "it is no picture, though"},
		"no webcam":     {say(404, "text/html", "<html>"), "has no webcam that takes snapshots: set its snapshot URL in OctoPrint, or set snapshot.url"},
		"a dead webcam": {say(500, "text/html", "<html>"), "gets no snapshot from its webcam (status 500): is the webcam on"},
		"no permission": {say(403, "text/html", "<html>"), "needs the permission Webcam"},
		"elsewhere":     {say(302, "", ""), "does not answer as OctoPrint does: it sends elsewhere"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStudio(t, func(o *octoprint.Options) {
				commandOptions(o)
				o.Snapshot.MaxSize = 1024
			}, nil)
			if _, err := s.ask(); err != nil {
				t.Fatal(err)
			}
			s.webcam.mu.Lock()
			s.webcam.answer = c.answer
			s.webcam.mu.Unlock()
			for range 2 {
				if _, err := s.ask(); err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v, want %s", err, c.says)
				}
			}
			if got := s.out.state("snapshot"); got != jpeg+"1" {
				t.Errorf("%q", got)
			}
			s.stop()
			if n := strings.Count(s.log.text(), "the webcam's picture cannot be had"); n != 1 {
				t.Errorf("said %d times: %s", n, s.log.text())
			}
		})
	}
}

// TestAWebcamOfItsOwnIsAskedWithoutTheKey, with the user in its address; it may
// send on to its own host alone, and its address is never said.
func TestAWebcamOfItsOwnIsAskedWithoutTheKey(t *testing.T) {
	camera := &webcam{}
	h := httptest.NewServer(camera)
	defer h.Close()
	other := httptest.NewServer(&webcam{})
	defer other.Close()
	c := newStudio(t, func(o *octoprint.Options) {
		commandOptions(o)
		o.Headers = map[string]config.Secret{"X-Proxy-Token": "t"}
		o.Snapshot.URL = config.Secret(strings.Replace(h.URL, "http://", "http://eye:s3cret@", 1) + "/?action=snapshot&token=s3cret")
	}, nil)
	if reply, err := c.ask(); err != nil || c.asked() != 0 {
		t.Fatalf("%s, %v", reply, err)
	}
	seen := camera.seen[0]
	if r := (&http.Request{Header: seen}); seen.Get("X-Api-Key")+seen.Get("X-Proxy-Token") != "" {
		t.Errorf("%v", seen)
	} else if user, password, _ := r.BasicAuth(); user != "eye" || password != "s3cret" {
		t.Errorf("%s %s", user, password)
	}
	for _, step := range []struct{ to, says string }{
		{h.URL + "/b", ""},
		{strings.Replace(other.URL, "127.0.0.1", "localhost", 1), "sends elsewhere, to http://localhost:"},
		{"/?again", "sends elsewhere, to "}, // for ever
		{"file:///etc/passwd", "sends elsewhere, to file:"},
	} {
		camera.mu.Lock()
		camera.answer = func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/b" {
				w.Header().Set("Content-Type", "image/jpeg")
				fmt.Fprint(w, jpeg)
				return
			}
			http.Redirect(w, r, step.to, http.StatusFound)
		}
		before := camera.taken
		camera.mu.Unlock()
		_, err := c.ask()
		if (err == nil) != (step.says == "") || err != nil && (!strings.Contains(err.Error(), step.says) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: %v, want %s", step.to, err, step.says)
		}
		if n := camera.asked() - before; n > 5 {
			t.Errorf("%s: it was asked %d times", step.to, n)
		}
	}
	h.Close()
	if _, err := c.ask(); err == nil || !strings.Contains(err.Error(), "cannot be reached (connection refused)") || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
	c.stop()
	if strings.Contains(c.log.text(), "s3cret") {
		t.Error("the log has the address's secret")
	}
}

// TestTheThumbnailIsThatOfTheSelectedFile, wherever its metadata say it is below
// OctoPrint; and it goes with the file.
func TestTheThumbnailIsThatOfTheSelectedFile(t *testing.T) {
	const png = "\x89PNG\x0d\x0a\x1a\x0a"
	picture := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "image/png")
			fmt.Fprint(w, png, text, r.URL.RawQuery)
		}
	}
	c := newStudio(t, func(o *octoprint.Options) { o.Thumbnail = true }, map[string]http.HandlerFunc{
		"GET /plugin/prusaslicerthumbnails/thumbnail/{name}": picture("plugin"), "GET /downloads/thumbs/local/{name}": picture("two"),
	})
	c.set(func() {
		c.files["a b.gcode"] = `{"thumbnail":"plugin/prusaslicerthumbnails/thumbnail/a%20b.png?2026"}`
		c.files["two.gcode"] = `{"refs":{"thumbnail":"http://inner:5000/downloads/thumbs/local/two.gcode"}}`
		c.files["none.gcode"] = `{"hash":"x"}`
		c.files["away.gcode"] = `{"thumbnail":"http://evil.example/x.png"}`
		c.files["away2.gcode"] = `{"thumbnail":"//evil.example/x.png"}`
		c.files["up.gcode"] = `{"thumbnail":"a/../../api/x.png"}`
	})
	for _, step := range []struct{ path, want string }{
		{"a b.gcode", png + "plugin2026"},
		{"none.gcode", ""},
		{"two.gcode", png + "two"},
		{"away.gcode", ""},
		{"a b.gcode", png + "plugin2026"},
		{"away2.gcode", ""},
		{"two.gcode", png + "two"},
		{"up.gcode", ""},
		{"two.gcode", png + "two"},
		{"", ""},
	} {
		c.peer.send(snapshot("current", "Operational", step.path, 1001))
		until(t, "the thumbnail is that of "+step.path, func() bool { return c.out.state("thumbnail") == step.want })
	}
	c.peer.send(snapshot("current", "Operational", "two.gcode", 1001))
	until(t, "there is a thumbnail", func() bool { return c.out.state("thumbnail") == png+"two" })
	c.peer.send(snapshot("current", "Operational", "deleted.gcode", 1001))
	until(t, "it has gone", func() bool { return c.out.state("thumbnail") == "" })
	c.peer.send(snapshot("current", "Operational", "two.gcode", 1001))
	until(t, "there is a thumbnail", func() bool { return c.out.state("thumbnail") == png+"two" })
	_ = c.peer.conn.Close()
	c.next().send(snapshot("history", "Operational", "", 1001)) // the file was deselected meanwhile
	until(t, "it has gone with the file", func() bool { return c.out.state("thumbnail") == "" })
	c.stop()
	for _, says := range []string{"elsewhere than at OctoPrint", "above OctoPrint's address"} {
		if n := strings.Count(c.log.text(), says); n < 1 {
			t.Errorf("%q is not said: %s", says, c.log.text())
		}
	}
}

// TestAThumbnailThatIsMadeLaterIsFound: an upload that is printed at once is
// selected before its thumbnail is there.
func TestAThumbnailThatIsMadeLaterIsFound(t *testing.T) {
	asked := make(chan struct{}, 100)
	c := newStudio(t, func(o *octoprint.Options) { o.Thumbnail = true }, map[string]http.HandlerFunc{
		"GET /thumbs/a.png": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "image/png")
			fmt.Fprint(w, "\x89PNG\x0d\x0a\x1a\x0a")
		},
		"GET /api/files/local/new.gcode": func(w http.ResponseWriter, _ *http.Request) {
			if asked <- struct{}{}; len(asked) == 1 {
				fmt.Fprint(w, `{}`)
				return
			}
			fmt.Fprint(w, `{"thumbnail":"thumbs/a.png"}`)
		},
	})
	c.peer.send(snapshot("current", "Operational", "new.gcode", 1001))
	until(t, "it was looked for", func() bool { return len(asked) == 1 })
	c.peer.send(happened("MetadataAnalysisFinished", `{"path":"other.gcode"}`))
	c.peer.send(happened("MetadataAnalysisFinished", `{"path":"new.gcode"}`))
	until(t, "it is there", func() bool { return strings.HasPrefix(c.out.state("thumbnail"), "\x89PNG") })
}
