package ui

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"event2mqtt/test/ui/standin"
)

// This file is what a page shows of the stream, whatever becomes of it.

func TestPauseLosesNothing(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	b.wait("document.querySelectorAll('#rows .row').length === 200")
	b.press("p")
	b.says("#pause", "Resume")
	for range 4 {
		sim.Many(32, "noise", "Tick")
	}
	b.says("#fresh", "128 new")
	if n := eval[int](b, "document.querySelectorAll('#rows .row').length"); n != 200 {
		t.Errorf("%d rows while it is paused", n)
	}
	b.press("p")
	b.wait("document.querySelectorAll('#rows .row').length === 328")
	b.unique()
}

func TestRowsStayWhereTheyAreWhileOneIsOpen(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	b.wait("document.querySelectorAll('#rows .row').length === 200")
	b.click("#rows .row")
	sim.Many(5, "noise", "Tick")
	b.says("#fresh", "5 new")
	if strings.Contains(b.text("#rows tr:first-child"), "Tick") {
		t.Error("a row was put above the one that is open")
	}
	b.press(esc)
	b.press(esc)
	b.says("#rows tr:first-child", "Tick")
}

func TestARestartLeavesNoRowTwiceAndNoneOut(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	sim.Many(3, "noise", "Before")
	b.wait("document.querySelectorAll('#rows .row').length === 203")
	sim.Be(standin.Down)
	b.says("#head", "No answer from event2mqtt since")
	b.wait("document.body.classList.contains('stale')")
	sim.Many(4, "noise", "Meanwhile")
	sim.Be(standin.Usual)
	b.says("#head", "Accepting events.")
	b.wait("document.querySelectorAll('#rows .row').length === 207")
	sim.Many(1, "noise", "After")
	b.wait("document.querySelectorAll('#rows .row').length === 208")
	b.unique()
}

func TestWhatWasMissedIsTold(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	sim.Gap(1234)
	b.says("#tally", "1,234 left out here; see the history")

	// So is what came while nobody asked, beyond what the first answer holds.
	sim.Be(standin.Down)
	b.says("#head", "No answer")
	sim.Many(500, "noise", "Meanwhile")
	sim.Be(standin.Usual)
	b.says("#tally", "1,434 left out here; see the history")
}

func TestSeveralTabs(t *testing.T) {
	name := "calm-seven"
	sim := scenarios.Sim(name)
	url := scenariosBase + name + "/"
	tabs := []*tab{open(t, desktop, url)}
	for range 6 {
		tabs = append(tabs, tabs[0].another(url))
	}
	for i, b := range tabs {
		b.says("#head", "Accepting events.")
		b.wait("document.querySelectorAll('#rows .row').length === 200")
		t.Logf("tab %d is there", i+1)
	}
	sim.Many(1, "noise", "ForAll")
	for _, b := range tabs {
		b.says("#rows", "ForAll")
	}
	// On a busy machine a tab may learn late that there are four before it.
	until(t, "there are at most 4 streams; a browser opens six connections", func() bool { return sim.Streams() <= 4 })
}

func TestATabThatIsHiddenHasNoStream(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	hide := func(hidden bool) {
		b.script(fmt.Sprintf("Object.defineProperty(document, 'hidden', {get: () => %v, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))", hidden))
	}
	hide(true)
	until(t, "the stream ends", func() bool { return sim.Streams() == 0 })
	sim.Many(3, "noise", "Hidden")
	hide(false)
	b.says("#rows tr:first-child", "Hidden")
	b.wait("document.querySelectorAll('#rows .row').length === 203")
	until(t, "there is a stream again", func() bool { return sim.Streams() == 1 })
	b.unique()
}

func TestPollingWhereStreamsAreHeldBackOrRefused(t *testing.T) {
	for name, mode := range map[string]standin.Mode{"held back": standin.Silent, "refused": standin.Full} {
		t.Run(name, func(t *testing.T) {
			b, sim := played(t, desktop, "calm")
			sim.Be(mode)
			b.says("#head", "Accepting events.")
			if mode == standin.Silent { // as if 20 s had gone by
				b.script("const real = Date.now; Date.now = () => real() + 30000")
			}
			sim.Many(3, "noise", "Polled")
			b.says("#rows tr:first-child", "Polled")
			b.says("#head", "Accepting events.")
			b.unique()
		})
	}
}

// Rows are drawn now and then while much comes in; a filter draws them at once.
func TestAFilterInAFloodShowsNoRowTwice(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	b.wait("document.querySelectorAll('#rows .row').length === 200")
	for i := range 3 {
		sim.Many(150, "noise", "Tick")
		b.wait(fmt.Sprintf("[...document.querySelectorAll('#rows .row')].filter(r => r.textContent.includes('Tick')).length >= %d", 150*(i+1)/2))
		sim.Many(20, "noise", "Tick")
		b.script("document.getElementById('filter').value = 'event:Tick'; document.getElementById('filter').oninput()")
		sim.Many(1, "noise", fmt.Sprint("Tick", i))
		b.says("#rows", fmt.Sprint("Tick", i))
		b.unique()
	}
}

// 5,000 events a second for some time leave the tab usable: what is typed is
// answered within a second.
func TestAFloodLeavesTheTabUsable(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				sim.Many(500, "noise", "Tick")
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	b.wait("document.getElementById('tally').innerText.includes('older in the history')")
	b.press("/")
	b.press("event:Tick")
	b.says("#tally", "events match")
	b.wait("document.querySelectorAll('#rows .row').length > 0")
	var long float64
	b.do(chromedp.Evaluate(`new Promise(done => {
		let worst = 0, last = performance.now(), n = 0;
		const look = now => { worst = Math.max(worst, now - last); last = now; ++n < 60 ? requestAnimationFrame(look) : done(worst) };
		requestAnimationFrame(look);
	})`, &long, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	close(stop)
	<-done
	t.Logf("the longest wait for a frame was %.0f ms", long)
	if n := eval[int](b, "document.querySelectorAll('#rows .row').length"); n > 500 {
		t.Errorf("%d rows", n)
	}
}
