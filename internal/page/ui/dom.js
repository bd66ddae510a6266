// Elements are made here, never from markup: what comes from outside becomes
// text, and what would turn the direction of text around is shown, not obeyed.

export const $ = id => document.getElementById(id);
export const one = css => document.querySelector(css);
export const focused = () => document.activeElement;

// Controls and marks of direction (Unicode, UAX #9), but for tab and new line.
const odd = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
export const clean = text => String(text).replace(odd, '\ufffd');

// JSON as people read it; odd characters are escaped, so that none is lost.
const escape = c => '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0');
export const pretty = value => JSON.stringify(value, null, 2).replace(odd, escape);
export const compact = value => JSON.stringify(value).replace(odd, escape);

const shown = new Set(['title', 'aria-label', 'alt']);

// h makes an element: h('td.r.dim', {title: x, onclick: f}, 'text', node). What
// is null or false is left out.
export function h(what, ...kids) {
	const [tag, ...classes] = what.split('.');
	const e = document.createElement(tag);
	if (classes.length) e.className = classes.join(' ');
	if (tag === 'th') e.scope = 'row';
	for (const kid of kids.flat(3)) {
		if (kid == null || kid === false) continue;
		if (kid instanceof Node) e.append(kid);
		else if (typeof kid === 'object') set(e, kid);
		else e.append(clean(kid));
	}
	return e;
}

function set(e, attributes) {
	for (const [name, value] of Object.entries(attributes)) {
		if (value == null) continue;
		if (typeof value === 'function') e[name] = value;
		else e.setAttribute(name, shown.has(name) ? clean(value) : value);
	}
}

export const put = (e, ...kids) => e.replaceChildren(...kids.flat(2).filter(kid => kid));

// say changes a text only if it is another: what is read aloud is not repeated.
export function say(e, text) {
	text = clean(text);
	if (e.textContent !== text) e.textContent = text;
}

// dot is the shape of a state: up, waiting or failed. The word stands beside it.
export const dot = state => h('i.dot', {'data-s': state});

// selecting reports whether somebody marks text in an element; it is not redrawn meanwhile.
export function selecting(e) {
	const s = getSelection();
	return s.type === 'Range' && e.contains(s.anchorNode);
}

const draw = (tag, attributes) => {
	const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
	set(e, attributes);
	return e;
};

// spark draws numbers as a line, or as bars from zero.
export function spark(values, width, label, bars) {
	const height = 20, step = width / values.length;
	const max = Math.max(...values), min = bars ? 0 : Math.min(...values);
	const range = Math.max(max - min, bars ? 1 : Math.abs(max) * 0.01 || 1);
	const path = values.map((n, i) => {
		const x = (i * step + step / 2).toFixed(1);
		const y = (height - 1 - (n - min) / range * (height - 2)).toFixed(1);
		if (bars) return n ? `M${x} ${height}V${Math.min(y, height - 2)}` : '';
		return (i ? 'L' : 'M') + x + ' ' + y;
	}).join('') + (bars ? `M0 ${height - 0.5}H${width}` : '');
	const svg = draw('svg', {width, height, role: 'img', 'aria-label': label});
	svg.append(draw('path', {d: path, fill: 'none', stroke: 'currentColor', 'stroke-width': bars ? 1 : 1.5}));
	return svg;
}
