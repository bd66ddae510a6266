// Events in memory, which of them a filter lets through, and how one is told in few words.
import {compact, h} from './dom.js';
import {num, span, t} from './texts.js';

const keep = 2000;
export const events = []; // oldest first
const byId = new Map(), bySeq = new Map();

// add takes an item of the stream. It returns the event if it is new, or tells
// changed which one has another fate.
export function add(item, changed) {
	const known = byId.get(item.id) || item.seq && bySeq.get(item.seq);
	if (known) { // a fate, or the event again, after a reconnect
		if (item.type === 'fate' || known.fate.state !== item.fate.state) {
			known.fate = item.fate;
			changed(known);
		}
		known.seq ??= item.seq;
	} else if (item.type === 'event') {
		events.push(item);
		byId.set(item.id, item);
	}
	const e = known || item;
	if (e.type === 'event' && e.seq) bySeq.set(e.seq, e);
	return !known && item.type === 'event';
}

// forgetOld returns how many are no longer in memory.
let forgotten = 0;
export function forgetOld() {
	for (const e of events.splice(0, events.length - keep)) {
		byId.delete(e.id);
		bySeq.delete(e.seq);
		forgotten++;
	}
	return forgotten;
}

// matches reports whether a topic is one of an MQTT filter.
function matches(filter, topic) {
	const f = filter.split('/'), levels = topic.split('/');
	const end = f.findIndex((level, i) => level === '#' || i >= levels.length || level !== '+' && level !== levels[i]);
	return end < 0 ? f.length === levels.length : f[end] === '#';
}

// The API's word for people's "rejected".
export const forAPI = query => query.replace(/\bstate:rejected\b/g, 'state:refused');

// query returns a test for events, as the API's q has it, or null for no words.
export function query(text) {
	const tests = forAPI(text).split(/\s+/).filter(word => word).map(word => {
		const [, field, value = word] = /^(source|event|topic|state):(.+)$/.exec(word) || [], low = value.toLowerCase();
		if (field === 'topic' && /[+#]/.test(value)) return e => matches(value, e.topic);
		if (!field) return e => (e.text ??= [e.source, e.event, e.topic, JSON.stringify(e.payload)].join(' ').toLowerCase()).includes(low);
		return e => (field === 'state' ? e.fate.state : e[field]).toLowerCase().includes(low);
	});
	return tests.length ? e => tests.every(test => test(e)) : null;
}

export function fateWords({state, ms}) {
	if (state !== 'delivered' || ms == null) return t.fates[state] ?? state;
	return t.deliveredIn(ms < 1 ? t.underOne : ms < 10_000 ? num(Math.round(ms)) + ' ms' : span(ms / 1000));
}

// content is what is published of a message that a program has sent to a topic.
export const content = message => message.encoding === 'json' ? compact(message.payload) : String(message.payload);

// brief is a payload on one line: names and values, without quotes and braces.
export function brief({raw, retain, topic, payload}) {
	if (raw) return [h('i', topic), ' ' + content(payload).slice(0, 400)];
	const values = Object.entries(payload && typeof payload === 'object' ? payload : {value: payload});
	const told = values.slice(0, 8).filter(([name]) => name !== '_event' && name !== '_timestamp');
	return [retain && [h('i', t.retainedOn), topic, ' '], told.map(([name, value]) =>
		[h('i', name), ` ${(typeof value === 'string' ? value : JSON.stringify(value)).slice(0, 120)} `])];
}
