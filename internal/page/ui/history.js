// What has happened: events of the journal, found, opened, and sent again.
import {$, h, put, say} from './dom.js';
import {t} from './texts.js';
import {clock, now, span, when} from './clock.js';
import {api, enc} from './api.js';
import {ask, toast} from './dialogs.js';
import {brief, fateWords, forAPI, why} from './events.js';
import {detail} from './event.js';
import {test} from './send.js';

let found = null; // the search: q, from, to, picked, next, count, whole

// showHistory searches, if nobody has yet.
export const showHistory = () => found ? null : search();

async function search() {
	found = {q: forAPI($('hq').value), from: now() - $('hspan').value, to: now(), picked: new Set(), count: 0, whole: true};
	put($('hrows'));
	await more();
}

async function more() {
	const s = found, limits = `q=${enc(s.q)}&from=${s.from}&to=${s.to}`;
	const page = await api('GET', `events?limit=100&${limits}` + (s.next ? '&before=' + s.next : ''));
	if (s !== found) return;
	if (!s.next) Object.assign(s, {count: page.found, whole: page.whole !== false});
	s.next = page.next;
	$('hrows').append(...page.events.map(row));
	drawPicked();
}

function row(e) {
	const name = h('button.plain', e.event || t.noName, {'aria-expanded': 'false', onclick: () => toggle(tr, name, e)});
	const pick = h('input', {type: 'checkbox', value: e.seq, 'aria-label': t.select(e.event, clock(e.time, true))});
	const tr = h('tr',
		h('td.pick', pick), h('td.dim', when(e.time, true)), h('td.dim.opt', e.source), h('td', name),
		h('td.one.cut.opt.pay', why(e.fate) && e.fate.state === 'refused' ? h('span.dim', why(e.fate)) : brief(e)),
		h('td.r.' + (e.fate.state === 'refused' ? 'failed' : e.fate.state === 'waiting' ? 'waiting' : 'dim'), fateWords(e.fate)));
	return tr;
}

function toggle(tr, name, e) {
	const opened = tr.classList.toggle('open');
	name.setAttribute('aria-expanded', opened);
	if (opened) tr.after(h('tr.more', h('td', {colspan: 6}, detail(e, {again: e => test('send', e)}))));
	else tr.nextElementSibling.remove();
}

const boxes = () => [...$('hrows').querySelectorAll('.pick input')];

function drawPicked() {
	const n = found.picked.size, all = boxes();
	$('replay').disabled = !found.count;
	say($('replay'), n ? t.replaySome(n) : found.count ? t.replayAll(found.count) : t.replay);
	say($('htally'), found.count ? t.found(found.count, found.whole) + (n ? t.selected(n) : '') + '.' : t.noneFound);
	$('hmore').hidden = !found.next;
	$('hall').checked = n > 0 && n === all.length;
	$('hall').indeterminate = n > 0 && n < all.length;
	$('hall').disabled = !all.length;
}

async function replay() {
	const what = found.picked.size ? {seqs: [...found.picked]} : {from: found.from, to: found.to, q: found.q};
	const plan = await api('POST', 'replay', {...what, dry_run: true});
	if (!await ask(t.replayTitle(plan.count), t.replayWhat(plan.rate, span(plan.seconds)), t.replayYes(plan.count))) return;
	await api('POST', 'replay', what);
	$('replay').disabled = true; // until another search: people press twice
	say($('replay'), t.replayed);
}

// drawReplay says how far a replay is.
export function drawReplay(r) {
	$('hreplay').hidden = !r;
	if (r) say($('hreplay').firstElementChild, t.replaying(r.done, r.count));
}

const or = work => () => {
	work().catch(e => toast(e.message));
	return false;
};
$('hform').onsubmit = $('hspan').onchange = or(search);
$('hmore').onclick = or(more);
$('replay').onclick = or(replay);
$('hstop').onclick = or(async () => {
	await api('DELETE', 'replay');
	toast(t.stopped);
});
$('hrows').onchange = ({target: box}) => {
	if (box.checked) found.picked.add(+box.value);
	else found.picked.delete(+box.value);
	drawPicked();
};
$('hall').onchange = () => {
	for (const box of boxes()) {
		box.checked = $('hall').checked;
		if (box.checked) found.picked.add(+box.value);
	}
	if (!$('hall').checked) found.picked.clear();
	drawPicked();
};
