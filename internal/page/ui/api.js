// The program's API, and the connection to it: the whole state first, then one
// stream of what changes; none while the tab is hidden.
import {t} from './texts.js';

export const enc = encodeURIComponent;

export async function api(method, path, body) {
	const headers = {'Content-Type': 'application/json'};
	const response = await fetch('api/v1/' + path, {method, headers, body: body === undefined ? body : JSON.stringify(body)});
	const answer = await response.json().catch(() => ({}));
	if (response.status === 401) {
		if (performance.now() > 5000) location.reload(); // the server shows its login page
		throw new Error(t.loggedOut);
	}
	if (!response.ok) throw new Error(answer.detail || t.answered(response.status));
	return answer;
}

const every = 2000;     // ms between questions while there is no stream
const silence = 20_000; // ms after which a proxy must hold the stream back: the program pings each 15 s
const again = 30_000;   // ms until another stream is tried
const most = 4;         // streams of one browser

let on, lastSeq; // what app.js does with what comes; number of the newest stored event
let stream, heard, polling, tries = 0;

export const seen = seq => { lastSeq = Math.max(lastSeq ?? 0, seq); };

// connect begins. handlers are state, items, gap, gone and alive.
export function connect(handlers) {
	on = handlers;
	document.onvisibilitychange = () => document.hidden ? stop() : start();
	setInterval(() => (polling || stream && Date.now() - heard > silence) && poll(), every);
	start();
}

function stop() {
	tries++;
	stream?.close();
	stream = polling = wanting = null;
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
	const {latest, ...state} = await api('GET', 'state'), first = latest[0]?.seq, last = latest.at(-1)?.seq ?? 0;
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
	await whole().catch(on.gone);
	busy = false;
}

function pollFor(mine) {
	polling = true;
	wanting = false;
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
	s.onerror = () => {
		if (s !== stream) return;
		if (s.readyState !== 2) { // the browser tries again by itself
			setTimeout(() => s === stream && s.readyState !== 1 && start(), every);
			return;
		}
		stream = null; // the program has too many streams
		pollFor(mine);
		poll();
	};
}

// A browser opens six connections to one host, and would not load a seventh tab
// if each held one. So tabs that are shown ask each other how many there are.
// Whoever asked first goes first.
const tabs = new BroadcastChannel('event2mqtt ' + location.pathname);
let me, wanting, others; // wanting: until it is known that there are too many
tabs.onmessage = ({data}) => {
	// On a busy machine an answer may come when there is a stream already: one too many.
	if (data.to === me && ++others >= most && stream) start();
	if (data.from && (stream || wanting && me < data.from)) tabs.postMessage({to: data.from});
};
async function crowded() {
	wanting = true;
	others = 0;
	me = Date.now() + Math.random();
	tabs.postMessage({from: me});
	await new Promise(done => setTimeout(done, 300)); // a busy machine answers late
	return others >= most;
}
