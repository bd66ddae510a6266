// What has happened: events of the journal, found, opened, and sent again.
import {$, h, put, say} from './dom.js';
import {clock, now, span, t, when} from './texts.js';
import {api, enc} from './api.js';
import {ask, toast} from './dialogs.js';
import {brief, fateWords, forAPI} from './events.js';
import {detail} from './event.js';

let found = null; // the search

// showHistory searches, if nobody has yet.
export const showHistory = () => found ? null : search();

async function search() {
	found = {q: forAPI($('hq').value), from: now() - $('hspan').value, to: now(), picked: new Set(), count: 0};
	put($('hrows'));
	await more();
}

async function more() {
	const s = found, before = s.next ? '&before=' + s.next : '';
	const page = await api('GET', `events?limit=100&q=${enc(s.q)}&from=${s.from}&to=${s.to}${before}`);
	if (s !== found) return;
	if (!before) Object.assign(s, {count: page.found, whole: page.whole});
	s.next = page.next;
	$('hrows').append(...page.events.map(row));
	drawPicked();
}

function row(e) {
	const name = h('button.plain', e.event || t.noName, {'aria-expanded': false}, () => {
		const open = tr.classList.toggle('open');
		name.setAttribute('aria-expanded', open);
		if (open) tr.after(h('tr.more', h('td', {colspan: 6}, detail(e))));
		else tr.nextElementSibling.remove();
	});
	const pick = h('input', {type: 'checkbox', value: e.seq, 'aria-label': t.select(e.event, clock(e.time, true))});
	const kind = {refused: 'failed', waiting: 'waiting'}[e.fate.state] || 'dim';
	const tr = h('tr', h('td.pick', pick), h('td.time', when(e.time, true)), h('td.dim.opt', e.source), h('td', name),
		h('td.one.cut.opt', brief(e)), h('td.r.' + kind, fateWords(e.fate)));
	return tr;
}

const boxes = () => [...$('hrows').querySelectorAll('.pick input')];

function drawPicked() {
	const n = found.picked.size, all = boxes().length, count = found.count;
	$('replay').disabled = !count;
	say('replay', n ? t.replaySome(n) + '…' : count ? t.replayAll(count) : t.replay);
	say('htally', count ? t.found(count, found.whole) + (n ? t.selected(n) : '') + '.' : t.noneFound);
	$('hmore').hidden = !found.next;
	$('hall').disabled = !all;
	$('hall').checked = n > 0 && n === all;
	$('hall').indeterminate = n > 0 && n < all;
}

function pick(box) {
	found.picked[box.checked ? 'add' : 'delete'](+box.value);
}

async function replay() {
	const what = found.picked.size ? {seqs: [...found.picked]} : {from: found.from, to: found.to, q: found.q};
	const {count, rate, seconds} = await api('POST', 'replay', {...what, dry_run: true});
	if (!await ask(t.replaySome(count) + '?', t.replayWhat(rate, span(seconds)), t.replaySome(count))) return;
	await api('POST', 'replay', what);
	$('replay').disabled = true; // until another search: people press twice
	say('replay', t.replayed);
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
$('hstop').onclick = or(() => api('DELETE', 'replay').then(() => toast(t.stopped)));
$('hrows').onchange = ({target}) => {
	pick(target);
	drawPicked();
};
$('hall').onchange = ({target}) => {
	for (const box of boxes()) {
		box.checked = target.checked;
		pick(box);
	}
	drawPicked();
};
