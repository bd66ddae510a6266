// The stream of events. Rows stay where they are while somebody reads them:
// while they are pointed at, scrolled, focused, opened or paused. What comes in
// meanwhile is counted.
import {$, dot, focused, h, one, phone, put, say, selecting} from './dom.js';
import {clock, num, t} from './texts.js';
import {add, brief, events, fateWords, forgetOld, query} from './events.js';
import {copy} from './dialogs.js';
import {detail} from './event.js';
import {seen} from './api.js';
import {test} from './send.js';

const mouse = matchMedia('(hover: hover)');
const most = () => phone.matches ? 40 : 500; // rows
const flood = 100; // new rows at once; then rows are drawn twice a second

const body = $('rows'), rows = new Map(); // by the event's id
let fresh = 0, paused = false, missing = 0, forgotten = 0, started = false;
let filter = null, highlight = null, queue = [], drawing = null;
const fates = new Set();

export function take(items) {
	for (const item of items) {
		if (add(item, e => fates.add(e))) queue.push(item);
		if (item.seq) seen(item.seq);
	}
	forgotten = forgetOld();
	started = true;
	drawing ??= requestAnimationFrame(draw);
}

export function leftOut(n) {
	missing += n;
	tally();
}

const atTop = () => phone.matches ? body.getBoundingClientRect().top >= 0 : $('scroll').scrollTop < 8;
const pointed = () => mouse.matches && body.matches(':hover');
const held = () => paused || pointed() || !atTop() || focused().closest('#rows') || body.querySelector('.open');

function draw() {
	drawing = null;
	const more = filter ? queue.filter(filter) : queue;
	queue = [];
	if (held()) fresh += more.length;
	else if (fresh) return rebuild();
	else prepend(more);
	for (const e of fates) if (rows.has(e.id)) drawFate(rows.get(e.id), e);
	fates.clear();
	tally();
	if (more.length > flood) drawing = setTimeout(draw, 500);
}

function prepend(list) {
	body.prepend(...list.slice(-most()).reverse().map(row));
	while (rows.size > most()) {
		rows.delete(body.lastElementChild.event.id);
		body.lastElementChild.remove();
	}
}

function rebuild() {
	fresh = 0;
	queue = []; // those are in memory, too
	rows.clear();
	body.replaceChildren();
	prepend(filter ? events.filter(filter) : events);
	tally();
}

function row(e) {
	const cell = (kind, text) => h('td.cut.' + kind, {role: 'cell'}, text);
	const name = h('button.plain.cut', e.event || t.noName, {tabindex: -1, 'aria-expanded': false});
	const tr = h('tr.row', {role: 'row', 'data-id': e.id}, cell('time', clock(e.time, true)), cell('src', e.source), cell('ev', name), cell('pay'), cell('fate.r'));
	tr.event = e;
	tr.classList.toggle('hit', !!highlight?.(e));
	rows.set(e.id, tr);
	drawFate(tr, e);
	return tr;
}

// A dropped event says why it was dropped; one that the broker rejected has its payload, too.
function drawFate(tr, e) {
	const {state} = e.fate, reason = t.by(e.fate), [, , , payload, fate] = tr.cells;
	tr.dataset.f = state;
	put(fate, state === 'refused' ? dot('failed') : (state === 'waiting' || state === 'held') && dot('waiting'), h('span', fateWords(e.fate)));
	put(payload, reason && h('span.dim', reason), reason && state === 'refused' && ' · ', (!reason || state === 'refused') && h('span', brief(e)));
}

function tally() {
	const counts = {}, n = rows.size, none = started && !events.length;
	for (const tr of rows.values()) counts[tr.dataset.f] = (counts[tr.dataset.f] || 0) + 1;
	put($('tally'),
		h('span', filter ? t.match(n) : n >= most() ? t.newest(n) : t.events(n)),
		['waiting', 'held', 'dropped', 'refused'].map(state => counts[state] &&
			h('button.link.dim', `${num(counts[state])} ${t.fates[state]}`, () => setFilter('state:' + t.fates[state]))),
		forgotten > 0 && h('span', t.older(forgotten)),
		missing > 0 && h('span.waiting', t.leftOut(missing)));
	$('fresh').hidden = !fresh && !paused;
	say('fresh', fresh ? t.fresh(fresh) + (paused ? '' : pointed() ? t.pointing : t.show) : t.paused);
	$('empty').hidden = !none;
	$('find').hidden = one('.rows table').hidden = $('counts').hidden = none;
	$('older').hidden = n < most();
	if (!body.querySelector('[tabindex="0"]')) body.querySelector('.row button')?.setAttribute('tabindex', 0);
}

// drawEmpty says how to send a first event, to the path of a webhook if there is one.
export function drawEmpty(path) {
	const line = `curl -d '{"event":"Hello","from":"me"}' ${new URL(path, location.href)}`;
	const button = (label, work) => h('p', h('button.go', label, work));
	put($('empty'), h('h2', t.emptyTitle), path
		? [h('p', t.empty, h('code', 'event2mqtt/event/Hello'), '.'), h('pre', line), button(t.copyLine, () => copy(line))]
		: button(t.sendTitle, () => test('send')));
}

function toggle(tr) {
	const open = tr.classList.toggle('open');
	tr.querySelector('button').setAttribute('aria-expanded', open);
	if (open) tr.after(h('tr.more', {role: 'row'}, h('td', {role: 'cell'}, detail(tr.event, topic => setFilter('topic:' + topic)))));
	else if (tr.nextElementSibling?.matches('.more')) tr.nextElementSibling.remove();
	tally();
}

// Tab leads to one row; the keys j and k to the others.
function focusRow(tr) {
	for (const other of body.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
	const button = tr.querySelector('button');
	button.tabIndex = 0;
	button.focus({preventScroll: true});
	tr.scrollIntoView({block: 'nearest'});
}

// step leads to the row after or before the one that has the focus.
export function step(way) {
	const at = focused().closest('#rows > tr');
	let to = at ? at[way] : body.firstElementChild;
	if (to?.matches('.more')) to = to[way];
	if (to) focusRow(to);
}

// closeOne closes a row that is open, and returns whether there was one.
export function closeOne(near) {
	const open = near.closest('.open') || near.closest('#rows > .more')?.previousElementSibling || body.querySelector('.open');
	if (!open) return false;
	toggle(open);
	focusRow(open);
	return true;
}

export function setFilter(text) {
	$('filter').value = text;
	filter = query(text);
	rebuild();
}

function toTop() {
	if (focused().closest('#rows')) focused().blur();
	$('scroll').scrollTop = 0;
	if (phone.matches && !atTop()) one('.stream').scrollIntoView();
	rebuild();
}

export function pause() {
	paused = !paused;
	$('pause').setAttribute('aria-pressed', paused);
	say('pause', paused ? t.resume : t.pause);
	if (paused) tally();
	else toTop();
}

const goOn = () => fresh && !held() ? rebuild() : tally();
body.onclick = ({target}) => {
	const tr = target.closest('.row');
	if (!tr || selecting(tr)) return;
	toggle(tr);
	focusRow(tr);
};
body.onpointerleave = () => setTimeout(goOn);
body.addEventListener('focusout', () => setTimeout(goOn));
$('scroll').onscroll = window.onscroll = () => fresh && goOn();
let typing;
$('filter').oninput = () => { // rows are drawn when somebody rests, not for each letter
	clearTimeout(typing);
	typing = setTimeout(() => setFilter($('filter').value), 100);
};
$('mark').oninput = () => {
	highlight = query($('mark').value);
	for (const tr of rows.values()) tr.classList.toggle('hit', !!highlight?.(tr.event));
};
$('find').onsubmit = () => false;
$('pause').onclick = pause;
$('fresh').onclick = () => paused ? pause() : toTop();
phone.addEventListener('change', rebuild);
