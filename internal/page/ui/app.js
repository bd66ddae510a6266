// The page of event2mqtt: views, keys, and what the program says.
import {$, focused, h, one, phone, selecting} from './dom.js';
import {now, setNow, t} from './texts.js';
import {connect} from './api.js';
import {ask} from './dialogs.js';
import {drawConfig, drawLine, drawMinutes, drawParts} from './overview.js';
import {drawDevices} from './devices.js';
import {closeOne, drawEmpty, leftOut, pause, setFilter, step, take} from './stream.js';
import {showTopics} from './topics.js';
import {drawReplay, showHistory} from './history.js';
import {showClients} from './clients.js';
import {setSources} from './send.js';

const known = {}; // the state, as it was told last
let lost = 0;     // since when there is no answer

// state takes the whole state, or the keys of it that changed, and draws those.
function state(changed) {
	const rejected = !!known.config?.refused;
	Object.assign(known, changed);
	setNow(known.now);
	drawLine(known, lost = 0);
	if (changed.devices) drawDevices(changed.devices, phone.matches);
	if (changed.parts) {
		drawParts(changed.parts);
		setSources(changed.parts.filter(p => p.kind === 'source').map(p => p.name));
	}
	if (changed.config) drawConfig(changed.config);
	if (rejected !== !!known.config.refused) place();
	if (changed.rate) drawMinutes(changed.rate.minutes);
	if ('webhook' in changed) drawEmpty(changed.webhook);
	if ('replay' in changed) drawReplay(changed.replay);
}

const alive = () => lost && drawLine(known, lost = 0);
const gone = () => drawLine(known, lost ||= now());

// place puts sections in the order in which they are seen, so that Tab goes so,
// too: devices before the stream on a phone, a rejected configuration before the rest.
function place() {
	const side = one('.side');
	(phone.matches ? $('live') : side).prepend(one('.devices'));
	if (known.config?.refused) side.prepend($('conf'));
	else side.append($('conf'));
}
phone.addEventListener('change', place);

const views = {live: () => null, topics: () => showTopics(known.broker), history: showHistory, clients: showClients};
let asking;

function view() {
	const name = Object.keys(views).find(v => '#' + v === location.hash) || 'live';
	for (const v of Object.keys(views)) $(v).hidden = v !== name;
	for (const a of document.querySelectorAll('nav a')) a.setAttribute('aria-current', a.hash === '#' + name ? 'page' : 'false');
	const look = () => {
		const read = document.hidden || one('dialog[open]') || focused().closest('tbody') || selecting(document.body);
		if (!read) views[name]()?.catch(() => {}); // the line at the top says that there is no answer
	};
	clearInterval(asking);
	look();
	asking = setInterval(look, 5000);
}
window.onhashchange = view;

const help = () => ask(t.keysTitle, h('span.keys', t.keys.map(([key, does]) => [h('kbd', key), h('span', does)])));

function escape(target, field) {
	if (field?.value) {
		field.value = '';
		field.oninput?.();
	} else if (field) field.blur();
	else if ($('live').hidden || !closeOne(target)) setFilter('');
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

for (const field of document.querySelectorAll('input, textarea')) field.autocomplete = 'off';
for (const th of document.querySelectorAll('.rows th')) th.role = 'columnheader';

place();
view();
connect({state, items: take, gap: leftOut, gone, alive});
