// Sending a test event, and trying what the rules would do with one.
import {$, h, pretty, put, say} from './dom.js';
import {t} from './texts.js';
import {clock} from './clock.js';
import {api} from './api.js';
import {why} from './events.js';

const kept = 10; // of what was sent

// Where a browser keeps nothing for pages, nothing is remembered.
function remembered() {
	try {
		return JSON.parse(localStorage.getItem('event2mqtt sent')) || [];
	} catch {
		return [];
	}
}

function remember(sent) {
	const same = JSON.stringify([sent.source, sent.event, sent.payload]);
	const others = remembered().filter(x => JSON.stringify([x.source, x.event, x.payload]) !== same);
	try {
		localStorage.setItem('event2mqtt sent', JSON.stringify([{...sent, at: Date.now() / 1000}, ...others].slice(0, kept)));
	} catch {
		// it is not remembered
	}
}

let sources = [], mode = 'send';

// setSources says which sources an event can be sent for.
export const setSources = names => { sources = names; };

// test opens the form: with an event, or with what was sent last.
export function test(how, e) {
	mode = how;
	const before = remembered();
	say($('te-h'), mode === 'try' ? t.tryTitle : t.sendTitle);
	put($('te-source'), sources.map(name => h('option', name, {value: name})));
	put($('te-before'), h('option', t.sentBefore, {value: ''}),
		before.map((b, i) => h('option', `${b.event}, ${clock(b.at, true)}`, {value: i})));
	$('te-before').parentNode.hidden = !before.length;
	fill(e ? {...e, payload: e.came_in ?? e.payload} : before[0] || {event: '', payload: {}});
	put($('te-out'));
	say($('te-err'), '');
	for (const b of [$('te-try'), $('te-send')]) b.className = b.value === mode ? 'go' : '';
	$('test').showModal();
	$('te-event').focus();
}

function fill(e) {
	if (sources.includes(e.source)) $('te-source').value = e.source;
	$('te-event').value = e.event;
	$('te-payload').value = pretty(e.payload);
}

async function submit(dry) {
	say($('te-err'), '');
	put($('te-out'));
	const sent = {source: $('te-source').value, event: $('te-event').value};
	try {
		sent.payload = JSON.parse($('te-payload').value || '{}');
	} catch (e) {
		$('te-payload').focus();
		throw new Error(t.notJSON(e.message));
	}
	const answer = await api('POST', 'events' + (dry ? '?dry_run=1' : ''), sent);
	if (!dry) remember(sent);
	put($('te-out'), dry ? tried(answer) : h('p', accepted(answer)));
}

function accepted({seq, fate}) {
	if (fate.state === 'dropped') return t.acceptedDropped(why(fate));
	return seq ? t.accepted(seq) : t.acceptedHeld;
}

function tried({steps, publish}) {
	const out = steps.length ? steps.map(s => h('p', t.step(s.rule, s.does))) : [h('p', t.noRule)];
	if (!publish) return [...out, h('p', t.wouldNot)];
	return [...out, h('p', t.wouldPublish(publish.qos, publish.retain), h('code', publish.topic), ':'), h('pre', pretty(publish.payload))];
}

$('tform').onsubmit = ({submitter}) => {
	submit((submitter?.value || mode) === 'try').catch(e => say($('te-err'), e.message));
	return false;
};
$('tform').onkeydown = ev => { // Enter does what the form was opened for
	if (ev.key !== 'Enter' || ev.target.tagName !== 'INPUT') return;
	ev.preventDefault();
	$('tform').requestSubmit($(mode === 'try' ? 'te-try' : 'te-send'));
};
$('te-before').onchange = ({target}) => {
	if (target.value !== '') fill(remembered()[+target.value]);
};
$('te-no').onclick = () => $('test').close();
$('t-send').onclick = () => test('send');
$('t-try').onclick = () => test('try');
