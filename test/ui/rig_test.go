// Package ui looks at the page in a real browser: Debian's Chromium. Where there
// is none, the tests are skipped; under CI=true that is a failure.
package ui

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"event2mqtt/test/ui/standin"
)

const (
	patience = 30 * time.Second // for what a slow machine does late
	glance   = 25 * time.Millisecond
)

// chromium is where the browser is, and empty if there is none.
var chromium = sync.OnceValue(func() string {
	for _, name := range []string{"chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
})

// quiet leaves out what chromedp says of events that are newer than it is.
var quiet = chromedp.WithErrorf(func(string, ...any) {})

var (
	browser       context.Context // lives as long as the tests
	scenarios     *standin.Server
	scenariosBase string
	folder        string // of all tests; it is removed
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if folder, err = os.MkdirTemp("", "event2mqtt-ui"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(folder)
		scenarios = standin.NewServer()
		var calls asked
		scenarios.Seen = calls.see
		server := httptest.NewUnstartedServer(scenarios)
		server.Config.ErrorLog = nil
		server.Start()
		defer server.CloseClientConnections()
		scenariosBase = server.URL + "/"
		if chromium() == "" {
			return m.Run()
		}
		options := append(chromedp.DefaultExecAllocatorOptions[:],
			chromedp.ExecPath(chromium()), chromedp.NoSandbox, chromedp.WindowSize(1440, 900), chromedp.Flag("font-render-hinting", "none"), chromedp.Flag("hide-scrollbars", true))
		allocator, end := chromedp.NewExecAllocator(context.Background(), options...)
		defer end()
		browser, _ = chromedp.NewContext(allocator, quiet) // Cancel ends it
		defer func() {
			_ = chromedp.Cancel(browser) // it waits until the browser is gone
		}()
		if err := chromedp.Run(browser); err != nil {
			fmt.Fprintln(os.Stderr, "starting the browser:", err)
			return 1
		}
		code := m.Run()
		for _, request := range calls.undescribed() {
			fmt.Fprintln(os.Stderr, "the page asks for what the API does not describe:", request)
			code = max(code, 1)
		}
		return code
	}())
}

// tab is one tab of the browser.
type tab struct {
	t   *testing.T
	ctx context.Context

	mu       sync.Mutex
	problems []string // what a browser writes to its console as errors
}

// screen is what a tab is seen on.
type screen struct {
	width, height int64
	dark, phone   bool
}

var (
	desktop = screen{width: 1440, height: 900}
	handset = screen{width: 360, height: 740, phone: true}
)

// watch notes what a page must not do.
const watch = `window.__bad = [];
addEventListener('securitypolicyviolation', e => __bad.push('CSP: ' + e.violatedDirective + ' ' + e.blockedURI + ' ' + e.sample));
for (const f of ['alert', 'confirm', 'prompt']) window[f] = x => { __bad.push(f + ' ' + x) };`

// open opens a page in a browser of its own: no other test's cookies and tabs.
func open(t *testing.T, s screen, url string) *tab {
	t.Helper()
	if chromium() == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("there is no Chromium; install Debian's package chromium-headless-shell")
		}
		t.Skip("there is no Chromium here (Debian: apt-get install chromium-headless-shell), so the page is not looked at")
	}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	b := &tab{t: t, ctx: ctx}
	t.Cleanup(func() {
		b.good()
		cancel()
	})
	b.listen()
	b.do(b.screen(s), b.prepare(), chromedp.Navigate(url))
	return b
}

// another opens one more tab of the same browser.
func (b *tab) another(url string) *tab {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	b.t.Cleanup(cancel)
	other := &tab{t: b.t, ctx: ctx}
	other.listen()
	other.do(other.prepare(), chromedp.Navigate(url))
	return other
}

func (b *tab) prepare() chromedp.Action {
	return chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := cdppage.AddScriptToEvaluateOnNewDocument(watch).Do(ctx)
		return err
	})
}

func (b *tab) screen(s screen) chromedp.Action {
	scheme := "light"
	if s.dark {
		scheme = "dark"
	}
	tasks := chromedp.Tasks{
		chromedp.EmulateViewport(s.width, s.height, func(p *emulation.SetDeviceMetricsOverrideParams, _ *emulation.SetTouchEmulationEnabledParams) {
			p.Mobile = s.phone
		}),
		emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
	}
	return tasks
}

func (b *tab) listen() {
	chromedp.ListenTarget(b.ctx, func(event any) {
		text := ""
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			text = e.ExceptionDetails.Error()
		case *cdplog.EventEntryAdded:
			if e.Entry.Source == cdplog.SourceSecurity || strings.Contains(e.Entry.Text, "Content Security") {
				text = e.Entry.Text
			}
		}
		if text != "" {
			b.mu.Lock()
			b.problems = append(b.problems, text)
			b.mu.Unlock()
		}
	})
}

// good fails the test if the page broke its own rules: an exception, or
// something that its policy forbids.
func (b *tab) good() {
	b.t.Helper()
	var bad []string
	_ = chromedp.Run(b.ctx, chromedp.Evaluate(`window.__bad || []`, &bad)) // the tab may be gone
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, text := range append(bad, b.problems...) {
		b.t.Errorf("the browser reports: %s", text)
	}
}

func (b *tab) do(actions ...chromedp.Action) {
	b.t.Helper()
	if err := chromedp.Run(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// eval evaluates JavaScript.
func eval[T any](b *tab, js string) (v T) {
	b.t.Helper()
	b.do(chromedp.Evaluate(js, &v))
	return v
}

// script runs JavaScript whose value does not matter.
func (b *tab) script(js string) {
	b.t.Helper()
	b.do(chromedp.Evaluate("{"+js+"}; 0", nil))
}

// wait waits until JavaScript is true.
func (b *tab) wait(js string) {
	b.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(glance) {
		var yes bool
		err := chromedp.Run(b.ctx, chromedp.Evaluate("!!("+js+")", &yes))
		if yes {
			return
		}
		if err != nil && !strings.Contains(err.Error(), "navigated") { // another page may be on its way
			b.t.Fatal(err)
		}
		if time.Now().After(end) {
			b.t.Fatalf("it never became true: %s\nthe page says:\n%s", js, b.text("body"))
		}
	}
}

// text is what is seen of an element.
func (b *tab) text(css string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("document.querySelector(%q)?.innerText ?? '(none)'", css))
}

// says waits until an element has a text in it.
func (b *tab) says(css, part string) {
	b.t.Helper()
	b.wait(fmt.Sprintf("(document.querySelector(%q)?.innerText || '').includes(%q)", css, part))
}

func (b *tab) click(css string) {
	b.t.Helper()
	b.script(fmt.Sprintf("document.querySelector(%q).click()", css))
}

// press presses keys, as kb names them, and types texts. A key that the page
// keeps for itself writes nothing, as on a keyboard; chromedp.KeyEvent would.
func (b *tab) press(keys ...string) {
	b.t.Helper()
	for _, r := range strings.Join(keys, "") {
		events := kb.Encode(r)
		down, up := events[0], events[len(events)-1]
		if len(events) == 3 {
			down.Text, down.UnmodifiedText = events[1].Text, events[1].UnmodifiedText
		}
		b.do(down, up)
	}
}

var (
	tabKey = kb.Tab
	enter  = kb.Enter
	esc    = kb.Escape
)

// live waits until the page is connected, by a stream.
func (b *tab) live(s *standin.Sim) {
	b.t.Helper()
	b.wait("document.getElementById('head').textContent !== 'Connecting.'")
	until(b.t, "the page opens its stream", func() bool { return s.Streams() > 0 })
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(glance) {
		if time.Now().After(end) {
			t.Fatalf("%s: it never happened", what)
		}
	}
}

// shots is where pictures are put: UI_SHOTS, or a folder that is removed.
func shots(t *testing.T) string {
	dir := os.Getenv("UI_SHOTS")
	if dir == "" {
		return t.TempDir()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// shoot takes a picture of what is seen.
func (b *tab) shoot(dir, name string) string {
	b.t.Helper()
	var png []byte
	b.do(chromedp.CaptureScreenshot(&png))
	path := filepath.Join(dir, name+".png")
	if err := os.WriteFile(path, png, 0o644); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// played opens a scenario that no other test uses.
func played(t *testing.T, s screen, kind string) (*tab, *standin.Sim) {
	t.Helper()
	name := kind + "-" + strings.ToLower(strings.Map(func(c rune) rune {
		if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '.'
	}, t.Name()))
	sim := scenarios.Sim(name)
	b := open(t, s, scenariosBase+name+"/")
	b.live(sim)
	return b, sim
}
