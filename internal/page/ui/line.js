// The sentence at the top: whether events are accepted, and if not, why.
import {$, one, say} from './dom.js';
import {t} from './texts.js';
import {ago, clock, when} from './clock.js';

const sources = (state, which) => (state.parts || []).filter(p => p.kind === 'source' && p.state === which).map(p => p.name);

// sentence returns the level, what is bold, and what follows it. lost is since
// when there is no answer.
function sentence(s, lost) {
	const {broker = {}, waiting = {count: 0}} = s;
	const waits = t.waitingSince(waiting.count, waiting.oldest && ago(waiting.oldest));
	const failed = sources(s, 'failed'), away = sources(s, 'waiting');
	if (lost) return ['failed', t.noAnswer(clock(lost)), t.stillAsking];
	if (!s.taking.ok) return ['failed', t.rejecting(s.taking.reason), waits];
	if (broker.state !== 'up') return ['failed', t.brokerAway(when(broker.since), broker.error), waits];
	const facts = [
		broker.kind === 'bundled' ? t.clients(broker.clients) : t.connected(broker.address, when(broker.since)),
		t.waitingNow(waiting.count),
		t.rate(s.rate.minute),
	].join(', ') + (away.length ? '; ' + t.areWaiting(away) : '') + '.';
	return failed.length ? ['failed', t.sourceFailed(failed), facts] : ['up', t.accepting, facts];
}

export function drawLine(s, lost) {
	if (!s.taking && !lost) return;
	const [level, head, facts] = sentence(s, lost), waiting = s.waiting?.count || 0;
	$('line').dataset.s = $('line').firstElementChild.dataset.s = level;
	say($('head'), head);
	say($('facts'), facts);
	document.title = waiting ? t.titleWaiting(waiting) : level === 'failed' ? t.titleFailed : t.title;
	document.body.classList.toggle('stale', !!lost);
	one('nav [href="#clients"]').hidden = s.broker?.kind === 'external';
	if (s.host) say($('where'), t.where(s.host, s.version, ago(s.started)));

	const rejected = s.config?.refused;
	$('notice').hidden = !rejected || !!lost;
	if (rejected) say($('notice').lastElementChild, t.configRejected(when(rejected.at), rejected.problems.length, when(s.config.loaded)));
}

// The notice leads to what is wrong.
$('notice').onclick = () => setTimeout(() => $('h-conf').focus());
