// Events: the ones in memory, which of them a filter lets through, and how one
// is told in a few words.
import {h} from './dom.js';
import {num, t} from './texts.js';
import {span} from './clock.js';

const keep = 2000; // in memory

export const events = []; // oldest first
const byId = new Map(), bySeq = new Map();
export let dropped = 0; // that are no longer in memory

// add takes an item of the stream. It returns the event, if it is a new one, or
// tells changed which event has another fate.
export function add(item, changed) {
	if (item.type === 'fate') {
		const e = byId.get(item.id);
		if (!e) return null;
		e.fate = item.fate;
		if (item.seq && !e.seq) remember(e, item.seq);
		changed(e);
		return null;
	}
	if (item.type !== 'event') return null;
	const known = byId.get(item.id) || item.seq && bySeq.get(item.seq);
	if (known) { // again, after a reconnect
		if (known.fate.state !== item.fate.state) {
			known.fate = item.fate;
			changed(known);
		}
		return null;
	}
	events.push(item);
	byId.set(item.id, item);
	if (item.seq) remember(item, item.seq);
	return item;
}

function remember(e, seq) {
	e.seq = seq;
	bySeq.set(seq, e);
}

export function forgetOld() {
	while (events.length > keep) {
		const e = events.shift();
		byId.delete(e.id);
		bySeq.delete(e.seq);
		dropped++;
	}
}

// matches reports whether a topic is one of an MQTT filter.
function matches(filter, topic) {
	const f = filter.split('/'), t = topic.split('/');
	for (let i = 0; i < f.length; i++) {
		if (f[i] === '#') return true;
		if (i >= t.length || f[i] !== '+' && f[i] !== t[i]) return false;
	}
	return f.length === t.length;
}

// The API's word for a fate is refused, people's is rejected.
export const forAPI = query => query.replace(/\bstate:rejected\b/g, 'state:refused');

// query returns a test for events, as the API's q: words, of which source:x,
// event:x, topic:x and state:x are about one field. It is null for no words.
export function query(text) {
	const tests = forAPI(text).split(/\s+/).filter(word => word).map(word => {
		const [, field, value] = /^(source|event|topic|state):(.+)$/.exec(word) || [];
		const low = (value || word).toLowerCase();
		if (!field) return e => searchable(e).includes(low);
		if (field === 'topic' && /[+#]/.test(value)) return e => matches(value, e.topic);
		return e => (field === 'state' ? e.fate.state : e[field]).toLowerCase().includes(low);
	});
	return tests.length ? e => tests.every(test => test(e)) : null;
}

const searchable = e => e.text ??= [e.source, e.event, e.topic, JSON.stringify(e.payload)].join(' ').toLowerCase();

export function fateWords({state, ms}) {
	if (state !== 'delivered' || ms == null) return t.fates[state] ?? state;
	return t.deliveredIn(ms < 10_000 ? num(Math.round(ms)) + ' ms' : span(ms / 1000));
}

export const why = t.by;

// brief is a payload on one line: names and values, without quotes and braces.
export function brief(e) {
	const out = e.retain ? [h('i', t.retainedOn), e.topic, ' '] : [];
	const payload = e.payload !== null && typeof e.payload === 'object' ? e.payload : {value: e.payload};
	for (const [name, value] of Object.entries(payload).slice(0, 8)) {
		if (name === '_event' || name === '_timestamp') continue;
		out.push(h('i', name), ' ' + (typeof value === 'string' ? value : JSON.stringify(value)).slice(0, 120) + ' ');
	}
	return out;
}
