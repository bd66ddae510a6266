// Sending a test event, and trying what the rules would do with one.
import {$, h, pretty, put, say} from './dom.js';
import {clock, now, t} from './texts.js';
import {api} from './api.js';

const kept = 10, key = 'event2mqtt sent'; // of what was sent, in this browser

function remembered() {
	try {
		return JSON.parse(localStorage.getItem(key)) || [];
	} catch { // some browsers keep nothing for pages in frames
		return [];
	}
}

function remember(sent) {
	const same = x => x.source === sent.source && x.event === sent.event && pretty(x.payload) === pretty(sent.payload);
	const all = [{...sent, at: now()}, ...remembered().filter(x => !same(x))];
	try {
		localStorage.setItem(key, JSON.stringify(all.slice(0, kept)));
	} catch {} // then not
}

const buttons = [$('te-try'), $('te-send')];
let sources = [], mode = 'send';

// setSources says which sources an event can be sent for.
export const setSources = names => { sources = names; };

// test opens the form: with an event, or with what was sent last.
export function test(how, e) {
	const before = remembered();
	mode = how;
	say('te-h', mode === 'try' ? t.tryTitle : t.sendTitle);
	put($('te-source'), sources.map(name => h('option', name, {value: name})));
	put($('te-before'), h('option', t.sentBefore, {value: ''}), before.map((b, i) => h('option', `${b.event}, ${clock(b.at, true)}`, {value: i})));
	$('te-before').parentNode.hidden = !before.length;
	fill(e ? {...e, payload: e.came_in ?? e.payload} : before[0] || {event: '', payload: {}});
	tell();
	for (const b of buttons) { // Enter does what the form was opened for
		b.className = b.value === mode ? 'go' : '';
		b.type = b.value === mode ? 'submit' : 'button';
	}
	$('test').showModal();
	$('te-event').focus();
}

function fill(e) {
	if (sources.includes(e.source)) $('te-source').value = e.source;
	$('te-event').value = e.event;
	$('te-payload').value = pretty(e.payload);
}

function tell(error = '', ...out) {
	say('te-err', error);
	put($('te-out'), out);
}

async function submit(dry) {
	const sent = {source: $('te-source').value, event: $('te-event').value};
	tell();
	try {
		sent.payload = JSON.parse($('te-payload').value || '{}');
	} catch (e) {
		$('te-payload').focus();
		throw new Error(t.notJSON(e.message));
	}
	const answer = await api('POST', 'events' + (dry ? '?dry_run=1' : ''), sent);
	if (dry) return tell('', tried(answer));
	remember(sent);
	tell('', h('p', answer.fate.state === 'dropped' ? t.acceptedDropped(t.by(answer.fate)) : t.accepted(answer.seq)));
}

function tried({steps, publish}) {
	const out = steps.length ? steps.map(s => h('p', t.step(s.rule, s.does))) : [h('p', t.noRule)];
	if (!publish) return [...out, h('p', t.wouldNot)];
	return [...out, h('p', t.wouldPublish(publish.qos, publish.retain), h('code', publish.topic), ':'), h('pre', pretty(publish.payload))];
}

const go = how => submit(how === 'try').catch(e => tell(e.message));
$('tform').onsubmit = () => {
	go(mode);
	return false;
};
for (const b of buttons) b.onclick = () => { if (b.type === 'button' && $('tform').reportValidity()) go(b.value); };
$('te-before').onchange = ({target}) => target.value && fill(remembered()[target.value]);
$('te-no').onclick = () => $('test').close();
$('t-send').onclick = () => test('send');
$('t-try').onclick = () => test('try');
