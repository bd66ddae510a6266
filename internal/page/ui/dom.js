// Elements are made here, never from markup: what comes from outside becomes text.

export const $ = id => document.getElementById(id);
export const one = css => document.querySelector(css);
export const focused = () => document.activeElement;
export const phone = matchMedia('(max-width: 860px)');

// Controls, and what turns the direction of text around (UAX #9), are shown, not obeyed.
const odd = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const clean = text => String(text).replace(odd, '\ufffd');

// In JSON they are escaped, so that nothing is lost.
const escape = c => '\\u' + c.charCodeAt(0).toString(16).padStart(4, '0');
export const compact = (value, indent) => JSON.stringify(value, null, indent).replace(odd, escape);
export const pretty = value => compact(value, 2);

// h makes an element: h('td.r.dim', {title: x}, 'text', node, onclick). null and false are left out.
export function h(what, ...kids) {
	const [tag, ...classes] = what.split('.'), e = document.createElement(tag);
	if (classes[0]) e.className = classes.join(' ');
	if (tag === 'th') e.scope = 'row';
	for (const kid of kids.flat(3)) {
		if (kid == null || kid === false) continue;
		if (kid instanceof Node) e.append(kid);
		else if (typeof kid === 'function') e.onclick = kid;
		else if (typeof kid === 'object') set(e, kid);
		else e.append(clean(kid));
	}
	return e;
}

const shown = ['title', 'aria-label', 'alt'];
function set(e, attributes) {
	for (const [name, value] of Object.entries(attributes)) {
		if (typeof value === 'function') e[name] = value;
		else e.setAttribute(name, shown.includes(name) ? clean(value) : value);
	}
	return e;
}

export const put = (e, ...kids) => e.replaceChildren(...kids.flat(2).filter(kid => kid));

// say changes a text only if it is another: what is read aloud is not repeated.
export function say(e, text) {
	if (typeof e === 'string') e = $(e);
	text = clean(text);
	if (e.textContent !== text) e.textContent = text;
}

// dot is the shape of a state: up, waiting or failed. Its word stands beside it.
export const dot = state => h('i.dot', {'data-s': state});

// Text that somebody selects is not redrawn meanwhile.
export function selecting(e) {
	const s = getSelection();
	return s.type === 'Range' && e.contains(s.anchorNode);
}

// spark draws numbers as a line, or as bars from zero.
export function spark(values, width, label, bars) {
	const height = 20, step = width / values.length, max = Math.max(...values), min = bars ? 0 : Math.min(...values);
	const range = Math.max(max - min, bars ? 1 : Math.abs(max) / 100 || 1);
	const path = values.map((n, i) => {
		const x = (i * step + step / 2).toFixed(1), y = height - 1 - (n - min) / range * (height - 2);
		if (bars) return n ? `M${x} ${height}V${Math.min(y, height - 2).toFixed(1)}` : '';
		return (i ? 'L' : 'M') + x + ' ' + y.toFixed(1);
	}).join('') + (bars ? `M0 ${height - 0.5}H${width}` : '');
	const draw = (tag, attributes) => set(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes);
	const svg = draw('svg', {width, height, role: 'img', 'aria-label': label});
	svg.append(draw('path', {d: path, fill: 'none', stroke: 'currentColor', 'stroke-width': bars ? 1 : 1.5}));
	return svg;
}
