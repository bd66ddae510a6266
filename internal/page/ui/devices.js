// Devices: how far they are, what they measure, a picture, and what they can be told.
import {$, dot, h, one, put, say, selecting, spark} from './dom.js';
import {num, t} from './texts.js';
import {clock, now, span} from './clock.js';
import {api, enc} from './api.js';
import {asking, enlarge, enlarged} from './dialogs.js';

const cards = new Map(); // by the device's id

// drawDevices makes a card anew only if what a device is has changed, so that
// buttons keep the focus; else it changes the values. On a phone cards after
// the first are folded.
export function drawDevices(devices, phone) {
	one('.devices').hidden = !devices.length;
	for (const [id, card] of cards) {
		if (devices.some(d => d.id === id)) continue;
		card.element.remove();
		cards.delete(id);
	}
	devices.forEach((d, i) => {
		const shape = JSON.stringify([d.name, d.state, d.level, d.commands, d.progress?.file, !!d.progress, !!d.picture]);
		let card = cards.get(d.id);
		if (card?.shape !== shape) {
			const old = card?.element;
			card = makeCard(d, old ? old.classList.contains('shut') : phone && i > 0);
			card.shape = shape;
			cards.set(d.id, card);
			if (old) old.replaceWith(card.element);
			else $('devices').append(card.element);
		}
		if (!selecting(card.element)) fill(card, d);
	});
}

function makeCard(d, shut) {
	const card = {readings: h('tbody')}, p = d.progress;
	const name = h('button.plain.cut', d.name, {title: d.name, 'aria-expanded': !shut, onclick: () =>
		name.setAttribute('aria-expanded', !card.element.classList.toggle('shut'))});
	card.element = h('article.device' + (shut ? '.shut' : ''), {'aria-label': d.name},
		h('h3', name),
		h('span.state', dot({good: 'up', bad: 'failed'}[d.level] || 'waiting'), d.state),
		p && [
			card.hero = h('p.hero'),
			card.bar = h('progress', {max: 100, 'aria-label': t.progress}),
			card.note = h('p.dim'),
			p.file && h('p.cut', p.file, {title: p.file}),
		],
		h('div.body', h('table.reads', card.readings), d.picture && (card.picture = h('div.pic'))),
		d.commands.length > 0 && h('div.acts', d.commands.map(c => command(d, c))));
	return card;
}

const command = (d, c) => asking('button', {
	label: c.label, title: t.commandTo(c.label, d.name), what: c.confirm, danger: c.danger, done: t.sent(c.label),
	work: () => api('POST', `devices/${enc(d.id)}/${enc(c.name)}`),
});

function fill(card, d) {
	const p = d.progress;
	if (p) {
		put(card.hero, h('span', Math.floor(p.percent), ' %'), p.left != null && h('span', h('small', t.done), clock(now() + p.left)));
		card.bar.value = p.percent;
		say(card.note, [
			p.left != null && t.left(span(p.left)),
			p.layers && t.layer(p.layer ?? 0, p.layers),
			p.elapsed && t.elapsed(span(p.elapsed)),
		].filter(x => x).join(' · '));
	}
	put(card.readings, d.readings.map(r => h('tr',
		h('th', r.name),
		h('td', r.unit === '°C' ? r.value.toFixed(1) : num(r.value), r.target != null && h('span.dim', ' / ', num(r.target)), ' ', r.unit),
		h('td', r.history?.length > 1 && spark(r.history, card.picture ? 40 : 160, t.curve(r.name))))));
	if (card.picture) drawPicture(card, d);
}

function drawPicture(card, d) {
	const src = `${d.picture.url}?t=${enc(d.picture.time)}`;
	if (card.src === src) return;
	card.src = src;
	enlarged(d.name, src);
	const shown = card.picture.querySelector('img');
	if (shown) {
		shown.src = src;
		return;
	}
	const image = h('img', {src, alt: '', onerror: () => put(card.picture, h('span', t.noPicture))});
	put(card.picture, h('button.plain', {'aria-label': t.enlarge(d.name), onclick: () => enlarge(d.name, card.src)}, image));
}
