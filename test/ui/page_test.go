package ui

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"event2mqtt/test/ui/standin"
)

func TestTheTopLineSaysHowItIs(t *testing.T) {
	for kind, want := range map[string][2]string{
		"calm":     {"Accepting events.", "4 clients, nothing waiting, 5 events a minute; door is waiting."},
		"external": {"Accepting events.", "Broker 192.168.1.10:1883 connected since "},
		"away":     {"(mqtt.url).", "214 events waiting, the oldest for 9 min. Nothing is lost."},
	} {
		t.Run(kind, func(t *testing.T) {
			b, _ := played(t, desktop, kind)
			b.says("#head", want[0])
			facts := want[1]
			if kind == "calm" { // the number of events depends on the clock
				facts = "4 clients, nothing waiting, "
				b.says("#facts", "events a minute; door is waiting.")
			}
			b.says("#facts", facts)
		})
	}
	t.Run("rejecting", func(t *testing.T) {
		b, sim := played(t, desktop, "calm")
		sim.Set(standin.Object{"taking": standin.Object{"ok": false, "reason": "the journal is full"}})
		b.says("#head", "Rejecting events: the journal is full.")
		sim.Set(standin.Object{"taking": standin.Object{"ok": true}})
		b.says("#head", "Accepting events.")
	})
}

func TestAnEventAppearsAndIsDelivered(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	e := sim.Event("door", "Knock", standin.Object{"times": 3})
	e["fate"] = standin.Object{"state": "waiting"}
	sim.Add(e)
	b.says("#rows tr:first-child", "Knock")
	b.says("#rows tr:first-child", "waiting")
	sim.Fate(e, standin.Object{"state": "delivered", "ms": 12})
	b.says("#rows tr:first-child", "delivered in 12 ms")
}

func TestADroppedEventShowsTheRuleAndItsLine(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	e := sim.Event("printer", "ZChange", standin.Object{"new": 3})
	e["seq"], e["fate"] = nil, standin.Object{"state": "dropped", "rule": standin.Rules[1], "why": "one per 5 s"}
	sim.Add(e)
	b.says("#rows tr:first-child", "rule 2 “thin layers”, line 36: one per 5 s")
	b.click("#rows tr:first-child")
	b.says("#rows .more", "dropped by rule 2 “thin layers”, line 36: one per 5 s")
	b.says("#rows .more", "not stored")
}

func TestARejectedEventShowsItsPayload(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	e := sim.Event("hooks", "Thumb", standin.Object{"image": "iVBOR"})
	e["fate"], e["truncated"] = standin.Object{"state": "refused", "why": "larger than the broker accepts"}, true
	sim.Add(e)
	b.says("#rows tr:first-child", "larger than the broker accepts")
	b.says("#rows tr:first-child", "iVBOR")
	b.click("#rows tr:first-child")
	b.says("#rows .more pre", "all of it") // it was asked for whole
}

func TestAnEventIsComparedWithTheJournals(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	for n := range 2100 { // far more than the page has in memory
		if n == 0 {
			sim.Add(sim.Event("scale", "Weight", standin.Object{"kg": 7}))
		}
		if n%700 == 0 {
			sim.Many(700, "noise", "Tick")
		}
	}
	sim.Add(sim.Event("scale", "Weight", standin.Object{"kg": 8}))
	b.script("document.getElementById('filter').value = 'event:Weight'; document.getElementById('filter').oninput()")
	b.says("#rows .row", "kg 8")
	b.click("#rows .row")
	b.script("[...document.querySelectorAll('.tab')].find(x => x.textContent === 'Changes').click()")
	b.says(".diff", "7")
	b.says(".diff", "8")
	b.says("#rows .more", "the one before it on this topic")
}

func TestABadConfigurationShowsFileLineAndColumn(t *testing.T) {
	b, _ := played(t, desktop, "badconfig")
	b.says("#notice", "rejected at")
	b.says("#notice", "3 problems")
	b.says("#notice", "keeps running")
	b.says("#config", "conf.d/printers.yaml:10:21")
	b.says("#config", "rules[1].min_intervall")
	if eval[string](b, "document.querySelector('.side').firstElementChild.id") != "conf" {
		t.Error("the rejected configuration is not the first section")
	}
	b.click("#notice a")
	b.wait("document.activeElement.id === 'h-conf'")
}

// unique fails if an event is in two rows.
func (b *tab) unique() {
	b.t.Helper()
	if n := eval[int](b, "(r => r.length - new Set(r).size)([...document.querySelectorAll('#rows .row')].map(x => x.dataset.id))"); n != 0 {
		b.t.Errorf("%d rows are there twice", n)
	}
}

func TestBehindAPrefixOfAProxy(t *testing.T) {
	const prefix = "/api/hassio_ingress/0123456789abcdef/"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, prefix)
		if !ok {
			http.Error(w, "not below the prefix", http.StatusTeapot)
			t.Errorf("the page asks for %s", r.URL)
			return
		}
		r.URL.Path = "/calm-ingress/" + rest
		scenarios.ServeHTTP(w, r)
	}))
	defer server.CloseClientConnections()
	b := open(t, desktop, server.URL+prefix)
	b.live(scenarios.Sim("calm-ingress"))
	b.says("#head", "Accepting events.")
	b.wait("document.querySelector('.pic img').naturalWidth === 320")
	b.click("nav [href='#topics']")
	b.says("#tree", "homeassistant")
	b.script("location.hash = '#clients'")
	b.says("#crows", "ha-core")
}

func TestInAFrameOfTheSameOrigin(t *testing.T) {
	b := open(t, desktop, scenariosBase)
	b.script(`const f = document.createElement('iframe'); f.src = '/calm-frame/'; document.body.append(f)`)
	b.wait(`document.querySelector('iframe').contentDocument?.getElementById('head')?.textContent === 'Accepting events.'`)
}

func TestNothingFromOutsideRuns(t *testing.T) {
	b, sim := played(t, desktop, "hostile")
	for _, h := range standin.Hostile {
		e := sim.Event(h, h, standin.Object{h: h})
		e["fate"] = standin.Object{"state": "refused", "why": h}
		e["topic"] = h
		sim.Add(e)
		d := sim.Event(h, h, standin.Object{h: h})
		d["seq"], d["fate"] = nil, standin.Object{"state": "dropped", "why": h, "rule": standin.Object{"n": 1, "name": h, "line": 3, "kind": h}}
		sim.Add(d)
	}
	sim.Set(standin.Object{"taking": standin.Object{"ok": false, "reason": standin.Hostile[1] + standin.Hostile[3]}})
	b.says("#head", "onerror=alert(1)")
	b.plain("the line at the top")
	b.script(`document.querySelectorAll('#rows .row').forEach((r, i) => i < 40 && r.click()); document.querySelectorAll('.tab').forEach(x => x.click())`)
	b.plain("events that are open")
	for _, view := range []string{"topics", "history", "clients"} {
		b.script("location.hash = '#" + view + "'")
		b.wait(fmt.Sprintf("document.querySelectorAll('#%s tbody tr').length > 3", view))
		b.script(fmt.Sprintf(`document.querySelectorAll('#%s [aria-expanded=false]').forEach(x => x.click())`, view))
		b.plain(view)
	}
	b.script("[...document.querySelectorAll('#crows button')].at(-1).click()")
	b.plain("a question")
	b.script("document.getElementById('ask').close(); location.hash = '#live'")
	b.script("document.querySelector('#rows .more .link:nth-of-type(3)').click()")
	b.wait("document.getElementById('test').open")
	b.plain("the form")
	b.script("document.getElementById('test').close()")
	sim.Set(standin.Object{"taking": standin.Object{"ok": true}, "broker": standin.Object{"kind": "external", "address": standin.Hostile[3], "state": "failed", "since": 1, "error": standin.Object{"at": 1, "text": standin.Hostile[2], "key": standin.Hostile[3]}}})
	b.says("#head", "Broker unreachable")
	b.plain("the broker's error")
}

// plain fails if something that came from outside became an element, or a
// character in sight turns text around.
func (b *tab) plain(where string) {
	b.t.Helper()
	bad := eval[[]string](b, `[
		...[...document.querySelectorAll('script:not([src]), img:not(.pic img, dialog img), b:not(header b), iframe, object, svg[onload], [onerror], [onload]')].map(e => 'element ' + e.outerHTML.slice(0, 80)),
		...(document.body.innerText.match(/.{0,20}[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069].{0,20}/g) || []).map(x => 'text ' + JSON.stringify(x)),
		...[...document.querySelectorAll('[title], [aria-label], option')].filter(e => /[\u202a-\u202e\u2066-\u2069]/.test(e.title + e.ariaLabel + e.label)).map(e => 'attribute of ' + e.tagName),
		...(/[\u202a-\u202e\u2066-\u2069]/.test(document.title) ? ['title'] : []), ...__bad]`)
	for _, x := range bad {
		b.t.Errorf("%s: %s", where, x)
	}
}

func TestThePhoneHasAllThatTheDesktopHas(t *testing.T) {
	b, _ := played(t, handset, "calm")
	for _, css := range []string{"#minutes svg", "#mark", "#filter", "#pause", ".device progress"} {
		b.wait(fmt.Sprintf("document.querySelector(%q)?.checkVisibility()", css))
	}
	b.script("document.getElementById('mark').value = 'dropped'; document.getElementById('mark').oninput()")
	b.fits(360)
	for _, view := range []string{"topics", "history", "clients"} {
		b.script("location.hash = '#" + view + "'")
		b.wait(fmt.Sprintf("document.querySelectorAll('#%s tbody tr').length > 3", view))
		b.fits(360)
		b.shoot(shots(t), "calm-phone-light-"+view)
	}
	b.script("location.hash = '#history'")
	b.click("#hrows button")
	b.fits(360)
	b.shoot(shots(t), "calm-phone-light-history-open")
	b.click("#t-send")
	b.fits(360)
	b.shoot(shots(t), "calm-phone-light-send")
}

// Tab goes as people see it: down, and to the right.
func TestTabGoesAsItIsSeen(t *testing.T) {
	for name, s := range map[string]screen{"desktop": desktop, "phone": handset} {
		t.Run(name, func(t *testing.T) {
			b, _ := played(t, s, "badconfig")
			b.says("#config", "rules[1].min_intervall")
			wrong := eval[[]string](b, `(() => {
				const seen = [...document.querySelectorAll('a, button, input, select')].filter(e => e.checkVisibility() && e.tabIndex >= 0 && !e.closest('dialog'))
					.map(e => [e, e.getBoundingClientRect()]).map(([e, r]) => ({e, column: innerWidth > 860 && e.closest('.side') ? 1 : 0, y: Math.round((r.top + r.height / 2) / 12), x: r.left}));
				return seen.slice(1).flatMap((b, i) => {
					const a = seen[i], back = b.column < a.column || b.column === a.column && (b.y < a.y || b.y === a.y && b.x < a.x);
					return back ? [a.e.textContent + ' before ' + b.e.textContent] : [];
				});
			})()`)
			for _, w := range wrong {
				t.Error(w)
			}
		})
	}
}

func TestByKeyboardAlone(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	b.wait("document.querySelectorAll('#rows .row').length === 200")
	b.press("/")
	b.wait("document.activeElement.id === 'filter'")
	b.press("state:rejected")
	b.wait("(rows => rows.length > 0 && rows.every(r => r.dataset.f === 'refused'))([...document.querySelectorAll('#rows .row')])")
	b.press(esc, esc)
	b.wait("document.querySelectorAll('#rows .row').length === 200")
	b.press("j", "j", "k", "j")
	b.wait("document.querySelectorAll('#rows .row')[1].contains(document.activeElement)")
	b.press(enter)
	b.wait("document.querySelector('#rows .more')")
	b.press(tabKey)
	b.wait("document.activeElement.className === 'tab'")
	b.press(esc)
	b.wait("!document.querySelector('#rows .more')")
	b.press("?")
	b.says("#ask", "next, previous event")
	b.press(esc)
	b.press(esc)

	// To a command, and through its question.
	b.script("document.querySelector('.device .acts button').focus()")
	b.press(enter)
	b.says("#ask", "Pause the print?")
	b.says("#ask-yes", "Send “Pause”")
	b.wait("document.activeElement.id === 'ask-no'") // what is safe has the focus
	b.press(tabKey, enter)
	until(t, "the command is sent", func() bool {
		return strings.Contains(strings.Join(sim.Called(), "\n"), "POST devices/printer/pause")
	})
	b.says("#toast", "Pause: sent.")
}

// TestANoIsNotTheAnswerToTheNextQuestion: a dialog's close event comes after close.
func TestANoIsNotTheAnswerToTheNextQuestion(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	b.wait("document.querySelector('.device .acts button')")
	b.script("const b = document.querySelector('.device .acts button'); b.click(); document.getElementById('ask-no').click(); b.click(); setTimeout(() => { window.heard = true; }, 50)")
	b.wait("window.heard")
	b.click("#ask-yes")
	until(t, "the command is sent", func() bool {
		return strings.Contains(strings.Join(sim.Called(), "\n"), "POST devices/printer/pause")
	})
}

func TestACommandsButtonComesBack(t *testing.T) {
	b, _ := played(t, desktop, "calm")
	b.wait("document.querySelector('.device .acts button')")
	b.script("window.realTimeout = setTimeout; window.rests = []; window.setTimeout = (f, ms) => ms === 10000 ? (rests.push(f), 0) : realTimeout(f, ms)")
	b.click(".device .acts button")
	b.click("#ask-yes")
	b.wait("document.querySelector('.device .acts button').disabled && rests.length === 1")
	b.script("rests[0]()") // 10 s later
	b.wait("!document.querySelector('.device .acts button').disabled")
}

// TestACommandThatTakesANumberAsksForIt: Enter gives it.
func TestACommandThatTakesANumberAsksForIt(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	b.says(".device .acts", "Bed target")
	b.script("[...document.querySelectorAll('.device .acts button')].find(x => x.textContent.startsWith('Bed target')).click()")
	b.says("#ask", "From 0 to 120 °C")
	b.wait("document.activeElement.value === '60'")
	b.script("document.activeElement.value = '85'")
	b.press(enter)
	until(t, "it is sent", func() bool {
		return strings.Contains(strings.Join(sim.Called(), "\n"), "POST devices/printer/temperature_bed 85")
	})
}

// TestManyTopicsAreReadLevelByLevel, and found by words all the same.
func TestManyTopicsAreReadLevelByLevel(t *testing.T) {
	b, _ := played(t, desktop, "busy")
	b.click("nav [href='#topics']")
	b.says("[data-path='tele']", "2")
	b.click("[data-path='tele']")
	b.says("[data-path='tele/kitchen']", "2")
	b.click("[data-path='tele/kitchen']")
	b.says("#tree", "SENSOR")
	b.script("const f = document.getElementById('tfilter'); f.value = 'lwt'; f.oninput()")
	b.wait("document.getElementById('tree').innerText.includes('LWT') && !document.getElementById('tree').innerText.includes('SENSOR')")
}

func TestDevicesAreDrawnFromWhatTheyTell(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	b.says(".device", "Prusa MK4")
	b.says(".device", "38 min left · layer 143 of 210")
	b.says(".device .reads", "/ 215 °C")
	b.wait("document.querySelector('.device .reads svg path')")
	b.wait("document.querySelector('.pic img').naturalWidth === 320")
	b.click(".pic button")
	b.wait("document.querySelector('dialog[open] img')?.naturalWidth === 320")
	b.script("document.querySelector('dialog[open]').close()")
	sim.Set(standin.Object{"devices": []standin.Object{{"id": "x", "name": "Plain", "source": "printer", "state": "idle", "level": "wait", "since": 1, "seen": 1, "readings": []standin.Object{}, "commands": []standin.Object{}}}})
	b.says("#devices", "Plain")
	b.wait("document.querySelectorAll('.device').length === 1 && !document.querySelector('.device progress')")
}

// Only what has changed is drawn: a button keeps the focus.
func TestAChangeOfTheStateLeavesTheRestAlone(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	b.says("#parts", "door")
	b.script("window.part = document.querySelector('#parts tr'); window.card = document.querySelector('.device'); document.querySelector('.device .acts button').focus()")
	sim.Set(standin.Object{"waiting": standin.Object{"count": 7}})
	b.says("#facts", "7 waiting")
	if !eval[bool](b, "part.isConnected && card.isConnected && card.contains(document.activeElement)") {
		t.Error("parts or devices were drawn anew")
	}
}

func TestHistorySelectsOpensAndReplays(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	b.click("nav [href='#history']")
	b.says("#htally", "events found")
	b.wait("document.querySelectorAll('#hrows tr').length === 100")
	b.click("#hrows button")
	b.says("#hrows .more", "Copy as curl")
	b.click("#hrows button")
	b.wait("!document.querySelector('#hrows .more')")
	b.click("#hall")
	b.says("#htally", "100 selected")
	b.click("#hall")
	b.script("document.querySelectorAll('#hrows input')[1].click(); document.querySelectorAll('#hrows input')[2].click()")
	b.says("#replay", "Replay 2 events…")
	b.click("#replay")
	b.says("#ask", "Receivers will see them again")
	b.click("#ask-yes")
	b.says("#replay", "Replayed")
	b.wait("document.getElementById('replay').disabled") // people press twice
	if calls := strings.Join(sim.Called(), "\n"); !strings.Contains(calls, `POST replay {"seqs":[`) {
		t.Errorf("the calls are:\n%s", calls)
	}
	b.click("#hmore")
	b.wait("document.querySelectorAll('#hrows tr').length > 100")
	sim.Set(standin.Object{"replay": standin.Object{"count": 200, "done": 12, "since": 1}})
	b.says("#hreplay", "12 of 200 events sent")
}

func TestASentEventAndTheLastTen(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	for i := range 12 {
		b.click("#t-send")
		b.wait("document.getElementById('test').open")
		b.script(fmt.Sprintf(`document.getElementById('te-event').value = 'Test%d'; document.getElementById('te-payload').value = '{"n": %d}'; document.getElementById('te-send').click()`, i, i))
		b.says("#te-out", "Accepted as number")
		b.click("#te-no")
	}
	b.says("#rows tr:first-child", "Test11")
	b.click("#t-send")
	if n := eval[int](b, "document.getElementById('te-before').options.length"); n != 11 {
		t.Errorf("%d are offered, with the one that says what this is", n)
	}
	b.script("const s = document.getElementById('te-before'); s.value = 2; s.onchange({target: s})")
	b.wait("document.getElementById('te-event').value === 'Test9'")
	b.click("#te-no")

	calls := len(sim.Called())
	b.click("#t-try")
	b.script(`document.getElementById('te-event').value = 'ZChange'; document.getElementById('te-payload').value = '{"new": 4}'; document.getElementById('te-event').focus()`)
	b.press(enter) // tries, and does not send
	b.says("#te-out", "By rule 2 “thin layers”, line 36: it lets it pass: none in the last 5 s.")
	b.says("#te-out", "It would be published with QoS 1 on event2mqtt/event/ZChange")
	b.script(`document.getElementById('te-payload').value = '{'; document.getElementById('te-try').click()`)
	b.says("#te-err", "The payload is not JSON")
	if len(sim.Called()) != calls {
		t.Error("trying the rules has sent something")
	}
}

func TestTopicsClientsAndAccounts(t *testing.T) {
	b, sim := played(t, desktop, "calm")
	b.click("nav [href='#topics']")
	b.says("#tree", "ZChange")
	if strings.Contains(b.text("#tree"), "SENSOR") {
		t.Error("a level is open that nobody opened")
	}
	b.click("[data-path='tele']")
	b.click("[data-path='tele/kitchen']")
	b.says("#tree", "SENSOR")
	b.script("document.getElementById('tfilter').value = 'nozzle-none'; document.getElementById('tfilter').oninput()")
	b.says("#tree", "No topic matches.")
	b.script("document.getElementById('tfilter').value = 'lwt'; document.getElementById('tfilter').oninput()")
	b.says("#tree", "Online")
	b.script("document.querySelector('#tree .link').click()")
	b.says("#ask", "tele/kitchen/LWT")
	b.click("#ask-yes")
	until(t, "it is deleted", func() bool {
		return strings.Contains(strings.Join(sim.Called(), "\n"), "DELETE retained/tele/kitchen/LWT")
	})

	b.script("document.activeElement.blur(); location.hash = '#clients'")
	b.says("#clead", "4 clients are connected.")
	b.says("#arows", "garage")
	b.says("#arows", "never")
	b.says("#arows", "2 h 3 min ago")
	b.says("#crows", "will: tele/kitchen/LWT")
	b.script("document.querySelector('#crows button').click()")
	b.click("#ask-yes")
	b.wait("!document.getElementById('crows').innerText.includes('ha-core')")
}

func TestTheServersOwnLogin(t *testing.T) {
	b := open(t, handset, scenariosBase+"login/")
	b.says("main", "Log in")
	b.fits(360)
	b.do(chromedp.SendKeys("[name=token]", "wrong"+enter))
	b.says("[role=alert]", "The token is not right")
	b.do(chromedp.SendKeys("[name=token]", standin.Token+enter))
	b.says("#head", "Accepting events.")
}

func TestWithoutJavaScriptThePageSaysWhereToLook(t *testing.T) {
	b := open(t, handset, "about:blank")
	b.do(emulation.SetScriptExecutionDisabled(true), chromedp.Navigate(scenariosBase+"calm-plain/"))
	b.says("header", "This page needs JavaScript.")
	b.wait("document.querySelector('noscript a[href=readyz]')?.checkVisibility()")
	b.fits(360)
}

func TestTheEmptyPageShowsHowToSendAnEvent(t *testing.T) {
	b, sim := played(t, desktop, "empty")
	b.says("#empty", "No event yet")
	b.says("#empty pre", "/hooks/default")
	sim.Many(1, "default", "Hello")
	b.says("#rows", "Hello")
	b.wait("document.getElementById('empty').hidden")
}
