// One event, opened: its payload, what changed since the one before it on its
// topic, how it came in, and what can be done with it.
import {compact, h, pretty, put} from './dom.js';
import {t} from './texts.js';
import {when} from './clock.js';
import {api, enc} from './api.js';
import {copy} from './dialogs.js';
import {fateWords, why} from './events.js';

// detail returns the element. Its actions send the event again and show only its topic.
export function detail(e, {again, only}) {
	const box = h('div'), links = h('span'), tabs = [];
	const show = (name, view) => {
		for (const tab of tabs) tab.setAttribute('aria-pressed', tab.textContent === t.views[name]);
		view(e, box);
	};
	for (const [name, view] of Object.entries(views)) {
		tabs.push(h('button.tab', t.views[name], {onclick: () => show(name, view)}));
	}
	const link = (label, onclick) => links.append(h('button.link', label, {onclick}));
	link(t.copy, () => copy(pretty(e.payload)));
	link(t.copyCurl, () => copy(curl(e)));
	link(t.sendAgain, () => again(e));
	if (only && e.topic) link(t.onlyTopic, () => only(e.topic));
	show('payload', views.payload);
	return h('div.detail', h('div.tabs', tabs, links), box, h('dl', facts(e)));
}

const views = {
	payload: (e, box) => payload(e, box, pretty),
	raw: (e, box) => payload(e, box, compact),
	changes: (e, box) => changes(e).then(kids => put(box, kids), error => put(box, h('p.failed', error.message))),
	cameIn: (e, box) => put(box, e.came_in === undefined ? h('p.dim', t.noCameIn) : h('pre', pretty(e.came_in))),
};

// The stream cuts long payloads; what is stored can be had whole, also if the broker rejected it.
async function payload(e, box, as) {
	put(box, h('pre', as(e.payload)), e.truncated && h('p.dim', e.seq ? t.loading : t.cut));
	if (!e.truncated || !e.seq) return;
	try {
		const whole = await api('GET', 'events/' + e.seq);
		e.payload = whole.payload;
		e.truncated = false;
		put(box, h('pre', as(e.payload)));
	} catch (error) {
		put(box, h('pre', as(e.payload)), h('p.failed', error.message));
	}
}

function facts(e) {
	const reason = why(e.fate), fate = fateWords(e.fate);
	return [
		['topic', e.topic && h('code', e.topic)],
		['fate', fate + (reason ? (e.fate.rule ? ' by ' : ': ') + reason : '')],
		['publish', e.fate.state !== 'dropped' && t.publish(e.qos, e.retain, e.size)],
		['id', h('code', e.id, t.number(e.seq))],
	].map(([name, value]) => value && [h('dt', t.facts[name]), h('dd', value)]);
}

function curl(e) {
	const body = compact({source: e.source, event: e.event, payload: e.came_in ?? e.payload}).replaceAll("'", "'\\''");
	return `curl -H 'Content-Type: application/json' -d '${body}' ${new URL('api/v1/events', location.href)}`;
}

// before returns the event before this one on its topic, as the journal has it.
async function before(e) {
	if (!e.topic) return null;
	const place = e.seq ? 'before=' + e.seq : 'to=' + e.time;
	const {events} = await api('GET', `events?limit=1&topic=${enc(e.topic)}&${place}`);
	return events[0];
}

async function changes(e) {
	const last = await before(e);
	if (!last) return [h('p.dim', t.first)];
	const was = flat(last.payload), is = flat(e.payload);
	const names = [...new Set([...was.keys(), ...is.keys()])].filter(k => was.get(k) !== is.get(k) && k !== '_timestamp');
	if (!names.length) return [h('p.dim', t.same)];
	return [
		h('table.diff', names.map(k => h('tr', h('th', k), h('td.was', was.get(k) ?? ''), h('td', is.get(k) ?? h('i', t.gone))))),
		h('p.dim.note', t.compared(when(last.time, true), last.seq)),
	];
}

// flat names each value by its path.
function flat(value, path = '', out = new Map()) {
	if (value && typeof value === 'object' && Object.keys(value).length) {
		for (const k of Object.keys(value)) flat(value[k], path ? path + '.' + k : k, out);
	} else {
		out.set(path, JSON.stringify(value));
	}
	return out;
}
