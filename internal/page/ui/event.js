// One event, opened: its payload, what changed on its topic, and what can be done with it.
import {compact, h, pretty, put} from './dom.js';
import {t, when} from './texts.js';
import {api, enc} from './api.js';
import {copy} from './dialogs.js';
import {content, fateWords} from './events.js';
import {test} from './send.js';

// detail returns the element. only, if it is given, shows the events of one topic.
export function detail(e, only) {
	const box = h('div'), show = name => {
		for (const tab of tabs) tab.setAttribute('aria-pressed', tab.textContent === t.views[name]);
		views[name](e, box);
	};
	const tabs = Object.keys(views).map(name => h('button.tab', t.views[name], () => show(name)));
	const link = (label, work) => h('button.link', label, work);
	const links = h('span', link(t.copy, () => copy(pretty(e.payload))), link(t.copyCurl, () => copy(curl(e))),
		!e.raw && link(t.sendAgain, () => test('send', e)), only && e.topic && link(t.onlyTopic, () => only(e.topic)));
	show('payload');
	return h('div', h('div.tabs', tabs, links), box, h('dl', facts(e)));
}

const views = {
	payload: (e, box) => payload(e, box, payload => e.raw ? content(payload) : pretty(payload)),
	raw: (e, box) => payload(e, box, compact),
	changes: (e, box) => changes(e).then(kids => put(box, kids), error => put(box, h('p.failed', error.message))),
	cameIn: (e, box) => put(box, e.came_in === undefined ? h('p.dim', t.noCameIn) : h('pre', pretty(e.came_in))),
};

// The stream cuts long payloads; what is stored can be had whole, also if the broker rejected it.
async function payload(e, box, as) {
	put(box, h('pre', as(e.payload)), e.truncated && h('p.dim', t.cut));
	if (!e.truncated || !e.seq) return;
	const whole = await api('GET', 'events/' + e.seq).catch(() => null); // it may be gone; then the beginning stays
	if (!whole) return;
	Object.assign(e, {payload: whole.payload, truncated: false});
	put(box, h('pre', as(e.payload)));
}

const facts = e => Object.entries({
	topic: e.topic && h('code', e.topic),
	fate: [fateWords(e.fate), t.by(e.fate)].filter(x => x).join(e.fate.rule ? ' by ' : ': '),
	publish: !['dropped', 'refused'].includes(e.fate.state) && t.publish(e.qos, e.retain, e.size),
	id: h('code', e.id, t.number(e.seq)),
}).map(([name, value]) => value && [h('dt', t.facts[name]), h('dd', value)]);

function curl(e) {
	const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;
	if (e.raw) return `curl -d ${quoted(content(e.payload))} ${new URL(`api/v1/publish/${e.topic.split('/').map(enc).join('/')}?qos=${e.qos}${e.retain ? '&retain=1' : ''}`, location.href)}`;
	const body = compact({source: e.source, event: e.event, payload: e.came_in ?? e.payload});
	return `curl -H 'Content-Type: application/json' -d ${quoted(body)} ${new URL('api/v1/events', location.href)}`;
}

// changes compares with the event before this one on its topic, as the journal has it.
async function changes(e) {
	const place = e.seq ? 'before=' + e.seq : 'to=' + e.time;
	const [last] = e.topic ? (await api('GET', `events?limit=1&topic=${enc(e.topic)}&${place}`)).events : [];
	if (!last) return [h('p.dim', t.first)];
	const was = flat(last.payload), is = flat(e.payload);
	const names = Object.keys({...was, ...is}).filter(name => was[name] !== is[name] && name !== '_timestamp');
	if (!names.length) return [h('p.dim', t.same)];
	return [
		h('table.diff', names.map(name => h('tr', h('th', name), h('td.was', was[name] ?? ''), h('td', is[name] ?? h('i', t.gone))))),
		h('p.dim.note', t.compared(when(last.time, true), last.seq)),
	];
}

// flat names each value by its path.
function flat(value, path = '', out = Object.create(null)) {
	if (value && typeof value === 'object' && Object.keys(value).length) {
		for (const name of Object.keys(value)) flat(value[name], path ? path + '.' + name : name, out);
	} else {
		out[path] = JSON.stringify(value);
	}
	return out;
}
