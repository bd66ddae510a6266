package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
	"event2mqtt/test/ui/standin"
)

// This file is what must not go wrong when the page is used with the real program
// for long: in many tabs, behind proxies, and with what strangers send.

// many sends events of a name, as a webhook's callers do.
func (p *program) many(n int, name string) {
	p.t.Helper()
	for i := range n {
		p.post("hooks/default", fmt.Sprintf(`{"event":%q,"n":%d}`, name, i))
	}
}

// counts waits until there are so many rows of an event, each once.
func (b *tab) counts(n int, name string) {
	b.t.Helper()
	b.wait(fmt.Sprintf("[...document.querySelectorAll('#rows .row')].filter(r => r.textContent.includes(%q)).length === %d", name, n))
	b.unique()
}

// hide has the page believe that its tab is hidden, or that it is seen again.
func (b *tab) hide(hidden bool) {
	b.t.Helper()
	b.script(fmt.Sprintf("Object.defineProperty(document, 'hidden', {get: () => %v, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))", hidden))
}

// before puts a proxy before the program.
func (p *program) before(t *testing.T, serve func(w http.ResponseWriter, r *http.Request, on http.Handler)) string {
	t.Helper()
	to, err := url.Parse(p.url)
	if err != nil {
		t.Fatal(err)
	}
	on := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = to.Scheme, to.Host, r.In.Host
		if r.In.Header.Get("X-Told") != "" {
			r.Out.Header.Del("X-Told")
			r.SetXForwarded()
		}
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, on) }))
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return server.URL
}

func TestProgramPauseLosesNothing(t *testing.T) {
	p := run(t)
	b := p.look(desktop)
	p.many(3, "Before")
	b.counts(3, "Before")
	b.press("p")
	b.says("#pause", "Resume")
	p.many(128, "Meanwhile")
	b.says("#fresh", "128 new")
	b.counts(0, "Meanwhile")
	b.press("p")
	b.counts(128, "Meanwhile")
	b.counts(3, "Before")
}

func TestProgramSevenTabs(t *testing.T) {
	p := run(t)
	tabs := []*tab{p.look(desktop)}
	for range 6 {
		tabs = append(tabs, tabs[0].another(p.url))
	}
	for _, b := range tabs {
		b.says("#head", "Accepting events.")
	}
	p.many(1, "ForAll")
	for _, b := range tabs {
		b.counts(1, "ForAll")
	}
}

func TestProgramATabThatWasHiddenHasEverythingOnce(t *testing.T) {
	p := run(t)
	b := p.look(desktop)
	p.many(2, "Before")
	b.counts(2, "Before")
	b.hide(true)
	p.many(20, "Hidden")
	b.counts(0, "Hidden")
	b.hide(false)
	b.counts(20, "Hidden")
	p.many(1, "After")
	b.counts(1, "After")
	b.counts(2, "Before")
}

// TestProgramWhatIsLeftOutIsTold: the first answer has 300 events.
func TestProgramWhatIsLeftOutIsTold(t *testing.T) {
	p := run(t)
	b := p.look(desktop)
	p.many(1, "Before")
	b.counts(1, "Before")
	b.hide(true)
	p.fill(1000)
	b.hide(false)
	b.says("#tally", "700 left out here; see the history")
	b.unique()
	b.script("location.hash = '#history'")
	b.says("#htally", "1,001 events found")
}

func TestProgramPollingWhereAProxyHoldsStreamsBack(t *testing.T) {
	p := run(t)
	asked := make(chan struct{}, 1)
	address := p.before(t, func(w http.ResponseWriter, r *http.Request, on http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/stream") { // as Home Assistant did before 2026.1
			w.Header().Set("Content-Type", "text/event-stream")
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			select {
			case asked <- struct{}{}:
			default:
			}
			<-r.Context().Done()
			return
		}
		on.ServeHTTP(w, r)
	})
	b := open(t, desktop, address)
	b.says("#head", "Accepting events.")
	<-asked
	b.script("const real = Date.now; Date.now = () => real() + 30000") // as if 20 s had gone by
	p.many(3, "Polled")
	b.counts(3, "Polled")
	p.many(2, "Later")
	b.counts(2, "Later")
	b.says("#head", "Accepting events.")
}

// TestProgramBehindAPrefixOfAProxy: a proxy tells for whom it asks, so who looks
// has to log in; all that the page needs is below the prefix.
func TestProgramBehindAPrefixOfAProxy(t *testing.T) {
	const prefix = "/api/hassio_ingress/0123456789abcdef"
	p := runWith(t, strings.Replace(programConfig, "broker:\n", "  token: a-long-enough-token\nbroker:\n", 1))
	address := p.before(t, func(w http.ResponseWriter, r *http.Request, on http.Handler) {
		if !strings.HasPrefix(r.URL.Path, prefix+"/") {
			t.Errorf("the page asks for %s", r.URL)
			w.WriteHeader(http.StatusTeapot)
			return
		}
		r.Header.Set("X-Told", "yes")
		http.StripPrefix(prefix, on).ServeHTTP(w, r)
	})
	b := open(t, desktop, address+prefix+"/")
	b.says("main", "Token")
	b.do(chromedp.SendKeys("[name=token]", "wrong"+enter))
	b.says("[role=alert]", "The token is not right")
	b.do(chromedp.SendKeys("[name=token]", "a-long-enough-token"+enter))
	b.says("#head", "Accepting events.")
	p.many(1, "Through")
	b.counts(1, "Through")
	b.click("nav [href='#topics']")
	b.says("#tree", "Through")
	b.click("#t-send")
	b.script(`document.getElementById('te-event').value = 'Written'; document.getElementById('te-send').click()`)
	b.says("#te-out", "Accepted as number")
	if got := eval[string](b, "location.pathname"); got != prefix+"/" {
		t.Errorf("the page has gone to %s", got)
	}
}

// TestProgramByKeyboardAlone sends an event, opens it, and disconnects a client,
// with the keys that are pressed and nothing else.
func TestProgramByKeyboardAlone(t *testing.T) {
	listen := freeAddress(t)
	p := runWith(t, strings.Replace(programConfig, `listen: "off"`, "listen: "+listen, 1))
	c, err := mqttest.Dial(listen, mqttest.Options{ID: "kitchen"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := p.look(desktop)
	b.until(tabKey, "document.activeElement.id === 't-send'")
	b.press(enter)
	b.wait("document.activeElement.id === 'te-event'")
	b.press("Pressed")
	b.press(enter)
	b.says("#te-out", "Accepted as number 1.")
	b.press(esc)
	b.counts(1, "Pressed")
	b.press("j")
	b.wait("document.activeElement.closest('#rows .row')")
	b.press(enter)
	b.says("#rows .more", "event2mqtt/event/Pressed")
	b.press(esc)
	b.wait("!document.querySelector('#rows .more')")

	b.script("document.activeElement.blur()")
	b.until(tabKey, "document.activeElement.hash === '#clients'")
	b.press(enter)
	b.says("#crows", "kitchen")
	b.until(tabKey, "document.activeElement.closest('#crows')")
	b.press(enter)
	b.says("#ask", "Disconnect kitchen?")
	b.press(tabKey, enter)
	b.says("#clead", "No client is connected.")
}

// until presses a key until JavaScript is true, some times.
func (b *tab) until(key, js string) {
	b.t.Helper()
	for range 60 {
		if eval[bool](b, "!!("+js+")") {
			return
		}
		b.press(key)
	}
	b.t.Fatalf("no key leads there: %s; it is at %s", js, eval[string](b, "document.activeElement.outerHTML.slice(0, 200)"))
}

// hostileConfig has a text of the corpus wherever a configuration has one.
const hostileConfig = `http:
  listen: %s
broker:
  listen: LISTEN
journal:
  sync: never
sources:
  - name: default
    type: webhook
rules:
  - match: Gone*
    name: RULE
    drop: true
`

// TestProgramNothingFromOutsideRuns sends each text of the corpus through all that
// strangers and configurations can fill: names of events, keys and values of
// payloads, topics, clients with their wills and subscriptions, rules, and what is
// said of a configuration that is wrong. Each view is looked at.
func TestProgramNothingFromOutsideRuns(t *testing.T) {
	quoted := func(text string) string {
		b, _ := json.Marshal(text) // it cannot fail
		return string(b)
	}
	listen := freeAddress(t)
	p := runWith(t, strings.NewReplacer("LISTEN", listen, "RULE", quoted(standin.Hostile[1])).Replace(hostileConfig))
	b := p.look(desktop)
	until(t, "the page has its stream", func() bool {
		p.many(1, "Gone")
		return strings.Contains(b.text("#rows"), "onerror=alert(1)")
	})
	for i, h := range standin.Hostile {
		text, _ := json.Marshal(map[string]any{"event": h, h: h, "deep": map[string]any{h: []string{h}}})
		p.post("hooks/default", string(text))
		p.post("api/v1/events", fmt.Sprintf(`{"source":"default","event":%s,"payload":{"n":%d}}`, quoted("Gone"+h), i))
		name := strings.NewReplacer("+", "", "#", "", "\x00", "", "\n", "", "\t", "", "\x7f", "", "\u0085", "").Replace(h)
		message, _ := json.Marshal(map[string]any{"topic": "plant/" + name, "payload": h, "encoding": "plain", "retain": true})
		p.post("api/v1/publish", string(message))
		if len(name) > 60 {
			continue
		}
		c, err := mqttest.Dial(listen, mqttest.Options{ID: name, Will: &wire.Publish{Topic: "will/" + name, Payload: []byte(h)}})
		if err != nil {
			t.Logf("the broker does not accept a client as %q: %v", name, err)
			continue
		}
		defer c.Close()
		if _, err := c.Subscribe("some/"+name, 0); err != nil {
			t.Logf("subscribing to some/%q: %v", name, err)
		}
	}
	b.says("#rows", "alert(6)")
	b.plain("events")
	b.script(`document.querySelectorAll('#rows .row').forEach(r => r.click()); document.querySelectorAll('.tab').forEach(x => x.click())`)
	b.wait("document.querySelectorAll('#rows .more').length > 20")
	b.plain("events that are open")
	for _, view := range []string{"topics", "history", "clients"} {
		b.script("document.activeElement.blur(); location.hash = '#" + view + "'")
		b.wait(fmt.Sprintf("document.querySelectorAll('#%s tbody tr').length > 3", view))
		b.script(fmt.Sprintf(`document.querySelectorAll('#%s [aria-expanded=false]').forEach(x => x.click())`, view))
		b.plain(view)
	}
	b.says("#crows", "onload=alert(5)")
	b.script("location.hash = '#live'; document.getElementById('t-try').click()")
	b.script(fmt.Sprintf(`document.getElementById('te-event').value = %s; document.getElementById('te-try').click()`, quoted("Gone"+standin.Hostile[1])))
	b.says("#te-out", "onerror=alert(1)")
	b.plain("what the rules would do")
	b.script("document.getElementById('test').close()")

	var bad strings.Builder
	for i, h := range standin.Hostile {
		fmt.Fprintf(&bad, "%+q: %+q\n", fmt.Sprint("k", i, h), h) // YAML reads what Go quotes
	}
	p.configure(strings.ReplaceAll(bad.String(), "${", "$${")) // it is no variable
	b.says("#notice", "problem")
	b.says("#config", "alert(5)")
	b.plain("a wrong configuration")

	// A file that cannot be read as YAML is quoted, too.
	p.configure(standin.Hostile[1] + ": [" + standin.Hostile[3])
	b.says("#notice", "1 problem")
	b.plain("a configuration that is not YAML")
}

// TestProgramOnEachScreen looks at the real program, as it is after an hour of use.
func TestProgramOnEachScreen(t *testing.T) {
	listen := freeAddress(t)
	p := runWith(t, strings.Replace(programConfig, `listen: "off"`, "listen: "+listen, 1))
	dir := shots(t)
	c, err := mqttest.Dial(listen, mqttest.Options{ID: "ha-core", Version: 5})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	go func() { _, _ = io.Copy(io.Discard, c) }() // it ends with the connection
	first := p.look(desktop)
	for i := range 60 {
		p.post("hooks/default", fmt.Sprintf(`{"event":"ZChange","old":%.1f,"new":%.1f}`, float64(i)*.2, float64(i+1)*.2))
		if i%7 == 0 {
			p.many(1, "ClientOpened")
			p.post("api/v1/publish", fmt.Sprintf(`{"topic":"plant/line%d/count","payload":{"n":%d},"retain":true}`, i%5, i))
		}
	}
	first.counts(60, "ZChange")
	for name, s := range map[string]screen{"light": desktop, "dark": {1440, 900, true, false}, "phone-light": handset, "phone-dark": {360, 740, true, true}} {
		t.Run(name, func(t *testing.T) {
			q := *p
			q.t = t
			b := q.look(s)
			for _, view := range []string{"live", "topics", "history", "clients"} {
				b.script("location.hash = '#" + view + "'")
				b.wait(fmt.Sprintf("document.querySelector('#%s tbody tr')", view))
				b.fits(s.width)
				b.shoot(dir, "program-"+name+"-"+view)
			}
		})
	}
}
