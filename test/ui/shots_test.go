package ui

import (
	"fmt"
	"testing"
)

// Each scenario is drawn on a desktop and a phone, by day and by night, without
// anything cut off or sideways scrolling. UI_SHOTS keeps the pictures.
func TestScenarios(t *testing.T) {
	dir := shots(t)
	for _, kind := range []string{"calm", "away", "badconfig", "empty", "hostile", "external", "busy"} {
		for name, s := range map[string]screen{
			"desktop-light": desktop, "desktop-dark": {1440, 900, true, false}, "phone-light": handset, "phone-dark": {360, 740, true, true}, "tablet-light": {width: 1024, height: 768},
		} {
			t.Run(kind+"-"+name, func(t *testing.T) {
				b, _ := played(t, s, kind)
				b.wait("document.querySelector('#rows tr, #empty h2')")
				b.shoot(dir, kind+"-"+name)
				b.fits(s.width)
			})
		}
	}
}

// fits fails if the page can be scrolled sideways, or a text sticks out of what it is in.
func (b *tab) fits(width int64) {
	b.t.Helper()
	if wide := eval[int64](b, "document.documentElement.scrollWidth") - width; wide > 0 {
		b.t.Errorf("the page is %d px wider than the screen", wide)
	}
	out := eval[[]string](b, fmt.Sprintf(`[...document.querySelectorAll('button, a, h2, h3, p, th, td, span')].filter(e => {
		const r = e.getBoundingClientRect();
		return r.width > 1 && r.height > 0 && e.checkVisibility() && (r.right > %d + 1 || r.left < -9) && !e.closest('.cut, .vh, .body');
	}).slice(0, 5).map(e => e.tagName + ' ' + e.textContent.slice(0, 60))`, width))
	for _, e := range out {
		b.t.Errorf("out of the screen: %s", e)
	}
	tight := eval[[]string](b, `[...document.querySelectorAll('button:not(.cut, .pic *)')].filter(e => {
		const r = e.getBoundingClientRect(), words = document.createRange();
		words.selectNodeContents(e);
		const w = words.getBoundingClientRect(), space = parseFloat(getComputedStyle(e).paddingLeft);
		return e.checkVisibility() && r.width > 1 && (w.left < r.left + space - 1 || w.right > r.right - space + 1);
	}).slice(0, 5).map(e => e.textContent)`)
	for _, e := range tight {
		b.t.Errorf("a button is too narrow for %q", e)
	}
}
