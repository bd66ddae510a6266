// Times as people say them, in the browser's time zone. A time is in seconds
// since 1970, as in the API.
import {many} from './texts.js';

let skew = 0; // the program's clock less the browser's
export const setNow = t => { skew = t - Date.now() / 1000; };
export const now = () => Date.now() / 1000 + skew;

const day = t => new Date(t * 1000).toDateString();
export const clock = (t, seconds) => new Date(t * 1000).toTimeString().slice(0, seconds ? 8 : 5);

// when names the day, too, if it is not today.
export function when(t, seconds) {
	if (day(t) === day(now())) return clock(t, seconds);
	return new Date(t * 1000).toLocaleDateString('en-GB', {day: 'numeric', month: 'short'}) + ', ' + clock(t, seconds);
}

export function span(seconds) {
	const s = Math.max(0, Math.round(seconds)), m = Math.round(s / 60);
	if (s < 60) return s + ' s';
	if (m < 60) return m + ' min';
	if (m < 1440) return Math.floor(m / 60) + ' h' + (m % 60 ? ` ${m % 60} min` : '');
	return many(Math.floor(m / 1440), 'day');
}

export const ago = t => span(now() - t);
