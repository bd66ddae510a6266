// What the page says: numbers, times and words. Headings and labels that never
// change are in index.html. State the fact, then the cause, then what follows. A
// button says what it does, and ends with … if it asks first. Counts are exact.

export const num = n => n.toLocaleString('en-US');
export const many = (n, one, more = one + 's') => `${num(n)} ${n === 1 ? one : more}`;

// Times are in seconds since 1970, and shown in the browser's zone.
let skew = 0; // the program's clock less the browser's
export const setNow = at => { skew = at - Date.now() / 1000; };
export const now = () => Date.now() / 1000 + skew;
export const clock = (at, seconds) => new Date(at * 1000).toTimeString().slice(0, seconds ? 8 : 5);

// when names the day, too, if it is not today.
export function when(at, seconds) {
	const date = new Date(at * 1000), today = date.toDateString() === new Date(now() * 1000).toDateString();
	return (today ? '' : date.toLocaleDateString('en-GB', {day: 'numeric', month: 'short'}) + ', ') + clock(at, seconds);
}

export function span(seconds) {
	const s = Math.max(0, Math.round(seconds)), m = Math.round(s / 60);
	if (s < 60) return s + ' s';
	if (m < 60) return m + ' min';
	return m < 1440 ? Math.floor(m / 60) + ' h' + (m % 60 ? ` ${m % 60} min` : '') : many(Math.floor(m / 1440), 'day');
}
export const ago = at => span(now() - at);

const list = names => names.length < 2 ? names.join('') : names.slice(0, -1).join(', ') + ' and ' + names.at(-1);
const are = (names, what) => `${list(names)} ${names.length === 1 ? 'is' : 'are'} ${what}`;
const cause = e => e.key ? `${e.text} (${e.key})` : e.text;
const rule = r => `rule ${r.n}${r.name ? ` “${r.name}”` : ''}${r.line ? `, line ${r.line}` : ''}`;

export const t = {
	// the line at the top
	where: (host, version, up) => `on ${host} · ${version} · up ${up}`,
	accepting: 'Accepting events.',
	rejecting: reason => `Rejecting events: ${reason}.`,
	brokerAway: (since, error) => `Broker unreachable since ${since}${error ? ': ' + cause(error) : ''}.`,
	sourceFailed: names => `${are(names, 'failing')}; everything else keeps running.`,
	noAnswer: since => `No answer from event2mqtt since ${since}.`,
	stillAsking: 'This is how it was then; the page keeps asking.',
	clients: n => n ? many(n, 'client') : 'No clients',
	connected: (address, since) => `Broker ${address} connected since ${since}`,
	waitingNow: n => n ? num(n) + ' waiting' : 'nothing waiting',
	waitingSince: (n, oldest) => `${n ? many(n, 'event') : 'Nothing'} waiting${oldest ? ', the oldest for ' + oldest : ''}. Nothing is lost.`,
	rate: n => many(n, 'event') + ' a minute',
	areWaiting: names => are(names, 'waiting'),
	titleWaiting: n => `${num(n)} waiting – `,
	titleFailed: 'Failed – ',
	configRejected: (at, n, before) => `The new configuration was rejected at ${at}: ${many(n, 'problem')}. The one from ${before} keeps running.`,

	// devices
	done: 'done at ',
	left: span => span + ' left',
	layer: (n, of) => `layer ${num(n)} of ${num(of)}`,
	elapsed: span => span + ' so far',
	curve: name => `${name}, the last minutes`,
	enlarge: 'Enlarge the picture',
	noPicture: 'No picture',
	range: ({min, max, unit}) => `From ${num(min)} to ${num(max)}${unit ? ' ' + unit : ''}`,
	send: label => `Send “${label}”`,
	sent: label => `${label}: sent.`,

	// parts and configuration
	partStates: {up: 'up', waiting: 'waiting', failed: 'failed'},
	lastEvent: ago => `last event ${ago} ago`,
	noEvent: 'no event yet',
	restarts: n => many(n, 'restart'),
	error: (at, e) => `${at}: ${cause(e)}`,
	lastError: 'last error ',
	lastMinute: n => many(n, 'event') + ' in the last minute',
	lastHour: 'last hour',
	hour: max => `Events in each of the last 60 minutes, at most ${num(max)}`,
	rejectedAt: (at, n) => `Rejected at ${at}: ${many(n, 'problem')}`,
	nothingChanged: 'Nothing was changed. A corrected file is applied at once.',
	noFile: 'No file; the defaults apply.',
	applied: (at, by) => by === 'start' ? `Applied at the start, ${at}.` : `Applied at ${at} (${by}).`,
	changed: keys => ` Changed: ${keys.join(', ')}.`,

	// the stream
	fates: {waiting: 'waiting', delivered: 'delivered', held: 'held', dropped: 'dropped', refused: 'rejected'},
	underOne: 'under 1 ms',
	deliveredIn: span => `delivered in ${span}`,
	by: fate => fate.rule ? `${rule(fate.rule)}: ${fate.why || fate.rule.kind}` : fate.why,
	noName: '(no name)',
	retainedOn: 'retained on ',
	newest: n => `The newest ${num(n)}`,
	events: n => many(n, 'event'),
	match: n => many(n, 'event matches', 'events match'),
	older: n => `${num(n)} older in the history`,
	leftOut: n => `${num(n)} left out here; see the history`,
	fresh: n => `${num(n)} new`,
	show: ' – show',
	pointing: ' – held while you point here',
	paused: 'Paused',
	pause: 'Pause',
	resume: 'Resume',
	emptyTitle: 'No event yet',
	empty: 'Send one. It appears here at once, and MQTT clients receive it on ',
	copyLine: 'Copy this line',

	// one event
	views: {payload: 'Payload', raw: 'Raw', changes: 'Changes', cameIn: 'As it came in'},
	copy: 'Copy', copyCurl: 'Copy as curl', sendAgain: 'Send again…', onlyTopic: 'Only this topic',
	copied: 'Copied.',
	facts: {topic: 'Topic', fate: 'Fate', publish: 'Sent', id: 'Id'},
	publish: (qos, retain, size) => `QoS ${qos}${retain ? ', retained' : ''}, ${many(size, 'byte')}`,
	number: n => n ? `, number ${num(n)}` : ', not stored',
	cut: 'Only the beginning is here.',
	noCameIn: 'Known only of events that come in while the page is open.',
	first: 'No earlier event on this topic is stored.',
	same: 'The same as the event before it on this topic.',
	compared: (at, n) => `Compared with event ${num(n)} of ${at}, the one before it on this topic.`,
	gone: 'gone',

	// topics
	topicsOf: address => address ? `The last value that event2mqtt has published on each topic to ${address}.`
		: 'The last value of each topic that the broker retains, or that event2mqtt has published.',
	topicsCut: ' More match than are shown; type more of the name.',
	emptyLevel: '(empty)',
	deleteRetained: 'Delete',
	deleteTitle: 'Delete the retained message?',
	deleteWhat: ' will have no value for clients that subscribe later. Nothing else changes.',
	deleted: 'Deleted.',
	noTopic: 'No topic yet.',
	noTopicMatches: 'No topic matches.',

	// history
	select: (event, at) => `Select ${event} of ${at}`,
	found: (n, whole) => `${whole ? '' : 'At least '}${many(n, 'event')} found`,
	selected: n => `, ${num(n)} selected`,
	noneFound: 'No event matches. Try fewer words or a longer time.',
	replay: 'Replay…', replayAll: n => `Replay all ${num(n)}…`, replaySome: n => `Replay ${many(n, 'event')}`,
	replayWhat: (rate, span) => `Receivers will see them again, as new events marked _replayed_from: ${num(rate)} a second, ${span} in all.`,
	replayed: 'Replayed',
	replaying: (done, count) => `Replaying: ${num(done)} of ${many(count, 'event')} sent.`,
	stopped: 'The replay was stopped.',

	// clients
	connectedClients: n => n ? many(n, 'client is', 'clients are') + ' connected.'
		: 'No client is connected. One that subscribes to event2mqtt/# receives every event.',
	noUser: 'none',
	will: 'will: ',
	kick: 'Disconnect',
	kickTitle: id => `Disconnect ${id}?`,
	kickWhat: 'Most clients come back by themselves. To keep one out, remove its account.',
	kicked: 'Disconnected.',
	never: 'never',
	connectedNow: 'connected now',
	seenAgo: ago => `${ago} ago`,

	// a test event
	tryTitle: 'Try the rules', sendTitle: 'Send a test event',
	notJSON: why => `The payload is not JSON: ${why}`,
	step: (r, does) => `By ${rule(r)}: it ${does}.`,
	noRule: 'No rule matches.',
	wouldPublish: (qos, retain) => `It would be published with QoS ${qos}${retain ? ', retained,' : ''} on `,
	wouldNot: 'Nothing would be published.',
	acceptedDropped: why => `Accepted, and dropped by ${why}.`,
	accepted: n => n ? `Accepted as number ${num(n)}.` : 'Accepted; a rule holds it back for now.',
	sentBefore: 'Choose one sent before',

	// dialogs and errors
	back: 'Back', close: 'Close',
	keys: [['/', 'search field'], ['p', 'pause, resume'], ['j  k', 'next, previous event'], ['Enter', 'open, close an event'],
		['Esc', 'close; clear the filter'], ['?', 'this list']],
	keysTitle: 'Keys',
	answered: status => `event2mqtt answered ${status}.`,
	loggedOut: 'You are logged out; reload the page to log in.',
};
