// How the program is: the sentence at the top, its parts, its configuration.
import {$, dot, h, one, put, say, selecting, spark} from './dom.js';
import {ago, clock, t, when} from './texts.js';

// sentence returns the level, what is bold, and what follows. lost is since when there is no answer.
function sentence({broker, parts = [], rate, taking, waiting}, lost) {
	if (lost) return ['failed', t.noAnswer(clock(lost)), t.stillAsking];
	const sources = state => parts.filter(p => p.kind === 'source' && p.state === state).map(p => p.name);
	const waits = t.waitingSince(waiting.count, waiting.oldest && ago(waiting.oldest));
	const failed = sources('failed'), away = sources('waiting');
	if (!taking.ok) return ['failed', t.rejecting(taking.reason), waits];
	if (broker.state !== 'up') return ['failed', t.brokerAway(when(broker.since), broker.error), waits];
	const facts = [
		broker.kind === 'bundled' ? t.clients(broker.clients) : t.connected(broker.address, when(broker.since)),
		t.waitingNow(waiting.count), t.rate(rate.minute),
	].join(', ') + (away.length ? '; ' + t.areWaiting(away) : '') + '.';
	return failed.length ? ['failed', t.sourceFailed(failed), facts] : ['up', t.accepting, facts];
}

export function drawLine(s, lost) {
	if (!s.taking && !lost) return;
	const [level, head, facts] = sentence(s, lost), waiting = s.waiting?.count, rejected = s.config?.refused;
	$('line').dataset.s = $('line').firstElementChild.dataset.s = level;
	say('head', head);
	say('facts', facts);
	document.title = (waiting ? t.titleWaiting(waiting) : level === 'failed' ? t.titleFailed : '') + 'event2mqtt';
	document.body.classList.toggle('stale', !!lost);
	one('nav [href="#clients"]').hidden = s.broker?.kind === 'external';
	if (s.host) say('where', t.where(s.host, s.version, ago(s.started)));
	$('notice').hidden = !rejected || !!lost;
	if (rejected) say($('notice').lastElementChild, t.configRejected(when(rejected.at), rejected.problems.length, when(s.config.loaded)));
}

$('notice').onclick = () => setTimeout(() => $('h-conf').focus());

const states = ['up', 'waiting', 'failed'];

// drawParts lists what is wrong first.
export function drawParts(parts) {
	const counts = states.map(state => [parts.filter(p => p.state === state).length, t.partStates[state]]);
	say('pcount', counts.filter(([n]) => n).map(c => c.join(' ')).join(', '));
	if (!selecting($('parts'))) put($('parts'), [...parts].sort((a, b) => states.indexOf(b.state) - states.indexOf(a.state)).map(part));
}

function part(p) {
	const type = [p.type !== p.name && p.type, p.kind === 'sink' && p.kind], flow = p.kind === 'source' || p.kind === 'sink';
	const life = [flow && (p.last_event ? t.lastEvent(ago(p.last_event)) : t.noEvent), p.restarts > 0 && t.restarts(p.restarts)].filter(x => x);
	const up = p.state === 'up', error = p.last_error;
	return h('tr',
		h('th', p.name, ' ', h('span.dim', type.filter(x => x).join(' ')),
			p.detail && h('div.dim', p.detail),
			life.length > 0 && h('div.dim', life.join(' · ')),
			error && h('div.' + (up ? 'dim' : p.state), up && t.lastError, t.error(when(error.at), error))),
		h('td', p.seconds && spark(p.seconds, 60, t.lastMinute(p.seconds.reduce((a, b) => a + b, 0)), true)),
		h('td.r', dot(p.state), t.partStates[p.state], h('div.dim', ago(p.since))));
}

export function drawConfig({file, loaded, by, changed, refused}) {
	put($('config'),
		refused && h('div.refused', h('strong', t.rejectedAt(when(refused.at), refused.problems.length)), h('p', t.nothingChanged),
			refused.problems.map(p => h('p', p.line > 0 && h('code.failed', `${p.file}:${p.line}:${p.column}`), p.key && h('code', p.key), p.text))),
		h('p', file ? h('code', file) : t.noFile),
		h('p.dim', t.applied(when(loaded), by), changed.length > 0 && t.changed(changed)));
}

export const drawMinutes = minutes => put($('minutes'), spark(minutes, 120, t.hour(Math.max(...minutes)), true), h('span', t.lastHour));
