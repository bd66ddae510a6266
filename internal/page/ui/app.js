// The page of event2mqtt: views, keys, and what comes from the program.
import {$, focused, h, one, selecting} from './dom.js';
import {t} from './texts.js';
import {now, setNow} from './clock.js';
import {connect} from './api.js';
import {ask} from './dialogs.js';
import {drawLine} from './line.js';
import {drawDevices} from './devices.js';
import {drawConfig, drawMinutes, drawParts} from './parts.js';
import {closeOne, drawEmpty, filtered, leftOut, pause, setFilter, step, take} from './stream.js';
import {showTopics} from './topics.js';
import {drawReplay, showHistory} from './history.js';
import {showClients} from './clients.js';
import {setSources} from './send.js';

// ---- what the program says
const known = {}; // the state, as it was told last
let lost = 0;     // since when there is no answer
const phone = matchMedia('(max-width: 860px)');

// state takes the whole state, or the keys of it that changed, and draws those.
function state(changed) {
	Object.assign(known, changed);
	if (changed.now) setNow(changed.now);
	lost = 0;
	drawLine(known, lost);
	if (changed.devices) drawDevices(changed.devices, phone.matches);
	if (changed.parts) {
		drawParts(changed.parts);
		setSources(changed.parts.filter(p => p.kind === 'source').map(p => p.name));
	}
	if (changed.config) {
		drawConfig(changed.config);
		place();
	}
	if (changed.rate) drawMinutes(changed.rate);
	if ('webhook' in changed) drawEmpty(changed.webhook);
	if ('replay' in changed) drawReplay(changed.replay);
}

function alive() {
	if (lost) drawLine(known, lost = 0);
}

function gone() {
	lost ||= now();
	drawLine(known, lost);
}

// place puts sections in the order in which they are seen, so that Tab goes so,
// too: devices before the stream on a phone, a rejected configuration first.
function place() {
	const side = one('.side'), devices = one('.devices'), config = $('conf');
	const order = known.config?.refused ? [config, devices] : [devices];
	for (const section of order.toReversed()) {
		const to = phone.matches ? $('live') : side;
		if (to.firstElementChild !== section) to.prepend(section);
	}
	if (!known.config?.refused && config !== side.lastElementChild) side.append(config);
}
phone.addEventListener('change', place);

// ---- views
const views = {live: null, topics: () => showTopics(known.broker), history: showHistory, clients: showClients};
let asking;

function view() {
	const name = Object.keys(views).find(v => '#' + v === location.hash) || 'live', show = views[name];
	for (const v of Object.keys(views)) $(v).hidden = v !== name;
	for (const a of document.querySelectorAll('nav a')) a.setAttribute('aria-current', a.hash === '#' + name ? 'page' : 'false');
	const look = () => {
		const read = document.hidden || one('dialog[open]') || focused().closest('tbody') || selecting(document.body);
		if (show && !read) show()?.catch(() => {}); // the line at the top says that there is no answer
	};
	clearInterval(asking);
	look();
	asking = setInterval(look, 5000);
}
window.onhashchange = view;

// ---- keys
const help = () => ask(t.keysTitle, h('span.keys', t.keys.map(([key, does]) => [h('kbd', key), h('span', does)])));

function escape(target, field) {
	if (field?.value) {
		field.value = '';
		field.oninput?.();
	} else if (field) field.blur();
	else if (!$('live').hidden && closeOne(target)) return;
	else if (filtered()) setFilter('');
	else focused().blur();
}

document.onkeydown = ev => {
	if (ev.ctrlKey || ev.metaKey || ev.altKey || one('dialog[open]')) return;
	const field = ev.target.closest('input:not([type=checkbox]), textarea, select'), live = !$('live').hidden;
	if (ev.key === 'Escape') return escape(ev.target, field);
	if (field) return;
	if (ev.key === '/') {
		ev.preventDefault();
		one('main:not([hidden]) [type=search]')?.focus();
	} else if (ev.key === '?') help();
	else if (live && ev.key === 'p') pause();
	else if (live && ev.key === 'j') step('nextElementSibling');
	else if (live && ev.key === 'k') step('previousElementSibling');
};
$('t-help').onclick = help;

for (const field of document.querySelectorAll('input, textarea')) {
	field.autocomplete = 'off';
	field.spellcheck = false;
}
for (const th of document.querySelectorAll('.rows th')) th.role = 'columnheader';
$('big-no').onclick = () => $('big').close();

place();
view();
connect({state, items: take, gap: leftOut, gone, alive});
