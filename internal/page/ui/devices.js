// Devices: how far they are, what they measure, a picture, and what they can be told.
import {$, dot, h, one, put, say, selecting, spark} from './dom.js';
import {clock, now, num, span, t} from './texts.js';
import {api, enc} from './api.js';
import {ask, asking} from './dialogs.js';

const cards = new Map(); // by the device's id

// drawDevices makes a card anew only if what a device is has changed, so that
// buttons keep the focus. On a phone all but the first are folded.
export function drawDevices(devices, phone) {
	one('.devices').hidden = !devices.length;
	for (const [id, card] of cards) {
		if (devices.some(d => d.id === id)) continue;
		card.element.remove();
		cards.delete(id);
	}
	devices.forEach((d, i) => {
		const old = cards.get(d.id), shape = JSON.stringify([d.name, d.state, d.level, d.commands, !!d.progress, d.progress?.file, !!d.picture]);
		if (old?.shape !== shape) {
			const card = makeCard(d, old ? old.element.matches('.shut') : phone && i > 0);
			cards.set(d.id, {...card, shape});
			if (old) old.element.replaceWith(card.element);
			else $('devices').append(card.element);
		}
		const card = cards.get(d.id);
		if (!selecting(card.element)) fill(card, d);
	});
}

function makeCard(d, shut) {
	const card = {readings: h('tbody'), hero: h('p.hero'), bar: h('progress', {max: 100, 'aria-label': d.name}), note: h('p.dim'), picture: h('div.pic')};
	const file = d.progress?.file, name = h('button.plain.cut', d.name, {title: d.name, 'aria-expanded': !shut}, () =>
		name.setAttribute('aria-expanded', !card.element.classList.toggle('shut')));
	card.element = h('article.device' + (shut ? '.shut' : ''), {'aria-label': d.name},
		h('h3', name), h('span.state', dot({good: 'up', bad: 'failed'}[d.level] || 'waiting'), d.state),
		d.progress && [card.hero, card.bar, card.note, file && h('p.cut', file, {title: file})],
		h('div.body', h('table.reads', card.readings), d.picture && card.picture),
		d.commands.length > 0 && h('div.acts', d.commands.map(c => command(d, c))));
	return card;
}

// Enter in a field is not the first button, which goes back.
function enterSays(ev) {
	if (ev.key !== 'Enter') return;
	ev.preventDefault();
	$('ask-yes').click();
}

// command is a button, which asks for the number if the command takes one.
function command(d, c) {
	const n = c.number, field = n && h('input', {type: 'number', min: n.min, max: n.max, step: n.step, value: n.now ?? n.min, autofocus: '', onkeydown: enterSays});
	return asking('button', {
		label: c.label, title: `${c.label}: ${d.name}`, what: n ? h('label', t.range(n), field) : c.confirm, yes: t.send(c.label), danger: c.danger, done: t.sent(c.label),
		work: () => api('POST', `devices/${enc(d.id)}/${enc(c.name)}`, n && field.valueAsNumber),
	});
}

function fill(card, d) {
	const p = d.progress;
	if (p) {
		put(card.hero, h('span', Math.floor(p.percent), ' %'), p.left != null && h('span', h('small', t.done), clock(now() + p.left)));
		card.bar.value = p.percent;
		const facts = [p.left != null && t.left(span(p.left)), p.layers && t.layer(p.layer ?? 0, p.layers), p.elapsed && t.elapsed(span(p.elapsed))];
		say(card.note, facts.filter(x => x).join(' · '));
	}
	put(card.readings, d.readings.map(r => h('tr', h('th', r.name),
		h('td', r.unit === '°C' ? r.value.toFixed(1) : num(r.value), r.target != null && h('span.dim', ' / ', num(r.target)), ' ', r.unit),
		h('td', r.history?.length > 1 && spark(r.history, d.picture ? 40 : 160, t.curve(r.name))))));
	if (d.picture) drawPicture(card, d.name, `${d.picture.url}?t=${enc(d.picture.time)}`);
}

function drawPicture(card, name, src) {
	const shown = card.picture.querySelector('img');
	if (shown && shown.getAttribute('src') !== src) shown.src = src;
	if (shown || card.src === src) return;
	card.src = src; // one that could not be loaded is not tried again
	const image = h('img', {src, alt: '', onerror: () => put(card.picture, h('span', t.noPicture))});
	put(card.picture, h('button.plain', {'aria-label': t.enlarge}, () => ask(name, h('img', {src: image.src, alt: ''})), image));
}
