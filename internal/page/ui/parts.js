// Parts of the program, and the configuration that it runs with.
import {$, dot, h, put, say, selecting, spark} from './dom.js';
import {t} from './texts.js';
import {ago, when} from './clock.js';

const worst = ['failed', 'waiting', 'up'];

// drawParts lists what is wrong first.
export function drawParts(parts) {
	const counts = worst.toReversed().map(state => [parts.filter(p => p.state === state).length, state]).filter(([n]) => n);
	say($('pcount'), counts.map(([n, state]) => `${n} ${t.partStates[state]}`).join(', '));
	if (selecting($('parts'))) return;
	put($('parts'), [...parts].sort((a, b) => worst.indexOf(a.state) - worst.indexOf(b.state)).map(part));
}

function part(p) {
	const type = [p.type !== p.name && p.type, p.kind === 'sink' && p.kind].filter(x => x).join(' ');
	const flow = p.kind === 'source' || p.kind === 'sink';
	return h('tr',
		h('th', p.name, ' ', h('span.dim', type),
			p.detail && h('div.dim', p.detail),
			(flow || p.restarts > 0) && h('div.dim', [
				flow && (p.last_event ? t.lastEvent(ago(p.last_event)) : t.noEvent),
				p.restarts > 0 && t.restarts(p.restarts),
			].filter(x => x).join(' · ')),
			p.last_error && h('div.' + (p.state === 'up' ? 'dim' : p.state), p.state === 'up' && t.lastError, t.error(when(p.last_error.at), p.last_error))),
		h('td', p.seconds && spark(p.seconds, 60, t.lastMinute(p.seconds.reduce((a, b) => a + b, 0)), true)),
		h('td.r', dot(p.state), t.partStates[p.state] ?? p.state, h('div.dim', ago(p.since))));
}

// drawConfig shows what is wrong with a newer configuration. The caller places the section.
export function drawConfig(c) {
	const rejected = c.refused;
	put($('config'),
		rejected && h('div.refused', h('strong', t.rejectedAt(when(rejected.at), rejected.problems.length)), h('p', t.nothingChanged),
			rejected.problems.map(p => h('p',
				p.line > 0 && h('code.failed', `${p.file}:${p.line}:${p.column}`),
				p.key && h('code', p.key),
				p.text))),
		h('p', c.file ? h('code', c.file) : t.noFile),
		h('p.dim', t.applied(when(c.loaded), c.by), c.changed.length > 0 && t.changed(c.changed)));
}

// drawMinutes draws the last hour.
export function drawMinutes(rate) {
	const minutes = rate.minutes;
	$('minutes').replaceChildren(spark(minutes, 120, t.lastHour(Math.max(...minutes)), true), h('span', 'last hour'));
}
