// The program's API, and the connection to it: the whole state first, then one
// stream of what changes; none while the tab is hidden.
import {t} from './texts.js';

export const enc = encodeURIComponent;

export async function api(method, path, body) {
	const response = await fetch('api/v1/' + path, {
		method, headers: {'Content-Type': 'application/json'}, body: body && JSON.stringify(body),
	});
	const answer = await response.json().catch(() => ({}));
	if (response.status === 401) {
		if (performance.now() > 5000) location.reload(); // the server shows its login page
		throw new Error(t.loggedOut);
	}
	if (!response.ok) throw new Error(answer.detail || t.answered(response.status));
	return answer;
}

const every = 2000;     // ms between questions while there is no stream
const silence = 20_000; // ms after which a stream is held back by some proxy; the program pings each 15 s
const again = 30_000;   // ms until another stream is tried
const most = 4;         // streams of one browser: it opens six connections, and the page needs some

let on;           // what app.js does with what comes
let lastSeq;      // number of the newest stored event
let stream, heard = 0, polling, tries = 0;

// connect begins. on has the functions state, items, gap and gone.
export function connect(handlers) {
	on = handlers;
	document.addEventListener('visibilitychange', () => document.hidden ? stop() : start());
	setInterval(() => {
		if (polling || stream && Date.now() - heard > silence) poll();
	}, every);
	start();
}

// seen tells the number of an event that the page has.
export const seen = seq => { lastSeq = Math.max(lastSeq ?? 0, seq); };

function stop() {
	tries++;
	stream?.close();
	stream = polling = null;
}

async function start() {
	stop();
	const mine = tries, crowd = crowded();
	try {
		await whole();
	} catch {
		on.gone();
		setTimeout(() => mine === tries && start(), every);
		return;
	}
	const full = await crowd;
	if (mine !== tries || document.hidden) return;
	if (full) pollFor(mine);
	else open(mine);
}

// whole asks for the state and the newest events, and tells how many are missing before those.
async function whole() {
	const {latest, ...state} = await api('GET', 'state');
	const first = latest[0]?.seq, last = latest.at(-1)?.seq ?? 0;
	if (lastSeq > last) lastSeq = last; // another journal
	else if (lastSeq && first > lastSeq + 1) on.gap(first - lastSeq - 1);
	on.state(state);
	on.items(latest);
	lastSeq ??= 0;
}

let busy;
async function poll() {
	if (busy) return;
	busy = true;
	try {
		await whole();
	} catch {
		on.gone();
	}
	busy = false;
}

function pollFor(mine) {
	polling = true;
	setTimeout(() => mine === tries && start(), again);
}

function open(mine) {
	const s = stream = new EventSource('api/v1/stream?since=' + lastSeq);
	const listen = (name, use) => s.addEventListener(name, m => {
		heard = Date.now();
		use(JSON.parse(m.data));
	});
	heard = Date.now();
	listen('state', on.state);
	listen('items', on.items);
	listen('gap', d => on.gap(d.left_out));
	listen('ping', on.alive);
	s.onopen = () => { heard = Date.now(); };
	s.onerror = () => {
		if (s !== stream) return;
		// The browser tries again by itself, but for what the program refuses: too many streams.
		if (s.readyState === EventSource.CLOSED) {
			stream = null;
			pollFor(mine);
			poll();
		} else {
			setTimeout(() => s === stream && s.readyState !== EventSource.OPEN && start(), every);
		}
	};
}

// A browser opens six connections to one host, and would not load a seventh tab
// if each held one. So tabs that are shown ask each other for how many there are.
const tabs = new BroadcastChannel('event2mqtt ' + location.pathname);
const me = crypto.getRandomValues(new Uint32Array(1))[0];
let wanting, others;
tabs.onmessage = ({data}) => {
	if (data.to === me) others++;
	else if (data.from && (stream || wanting && me < data.from)) tabs.postMessage({to: data.from});
};
async function crowded() {
	wanting = true;
	others = 0;
	tabs.postMessage({from: me});
	await new Promise(done => setTimeout(done, 100));
	wanting = false;
	return others >= most;
}
