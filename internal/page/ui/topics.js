// Topics as a tree, with their last values. What is below a level is asked for
// when the level is opened.
import {$, h, one, put, say, spark} from './dom.js';
import {num, t} from './texts.js';
import {ago} from './clock.js';
import {api, enc} from './api.js';
import {asking, toast} from './dialogs.js';

const open = new Set(['event2mqtt', 'event2mqtt/event']);
const all = new Map();     // topics that are known, by name
const numbers = new Map(); // of a topic: its last values, if they are numbers
const points = 60, maxTopics = 5000;
let cut = false, external = '';

// showTopics asks anew for all that is seen.
export async function showTopics(broker) {
	external = broker?.kind === 'external' ? broker.address : '';
	const root = await api('GET', 'topics');
	all.clear();
	learn(root.topics);
	cut = root.left_out;
	if (cut) for (const path of open) await below(path);
	draw();
}

async function below(path) {
	learn((await api('GET', 'topics?prefix=' + enc(path + '/'))).topics);
}

function learn(topics) {
	for (const t of topics) {
		if (all.size >= maxTopics && !all.has(t.topic)) continue;
		all.set(t.topic, t);
		const n = number(t.value);
		if (n == null) {
			numbers.delete(t.topic);
			continue;
		}
		const line = numbers.get(t.topic) || [];
		numbers.set(t.topic, [...line, n].slice(-points));
	}
	for (const topic of numbers.keys()) if (!all.has(topic)) numbers.delete(topic);
}

// number is what is drawn of a value: itself, or the first number in its object.
function number(value) {
	try {
		const v = JSON.parse(value);
		const n = v && typeof v === 'object' ? Object.values(v).find(x => typeof x === 'number') : v;
		return typeof n === 'number' ? n : null;
	} catch {
		return null;
	}
}

// tree is levels within levels, of the topics that match.
function tree(words) {
	const root = {levels: new Map()};
	for (const t of all.values()) {
		if (words && !(t.topic + ' ' + t.value).toLowerCase().includes(words)) continue;
		let node = root;
		for (const level of t.topic.split('/')) {
			if (!node.levels.has(level)) node.levels.set(level, {levels: new Map(), count: 0});
			node = node.levels.get(level);
			node.count++;
		}
		node.topic = t;
	}
	return root;
}

function draw() {
	const words = $('tfilter').value.toLowerCase(), out = [];
	const walk = (node, path, depth) => {
		for (const [name, child] of [...node.levels].sort(([a], [b]) => a < b ? -1 : 1)) {
			const full = path + name, unfolded = !!words || open.has(full);
			const tr = row(name, full, child, unfolded);
			tr.cells[0].style.textIndent = depth * 16 + 'px';
			out.push(tr);
			if (unfolded) walk(child, full + '/', depth + 1);
		}
	};
	walk(tree(words), '', 0);
	say($('tlead'), t.topicsOf(external) + (cut ? t.topicsCut : ''));
	put($('tree'), out.length ? out : h('tr', h('td.dim', words ? t.noTopicMatches : t.noTopic, {colspan: 6})));
}

function row(name, full, node, unfolded) {
	const last = node.topic, line = last && numbers.get(full);
	const label = name || t.emptyLevel;
	return h('tr',
		h('th', node.levels.size
			? h('button.plain.fold', label, !unfolded && h('span.dim', ` ${num(node.count)}`),
				{'aria-expanded': String(unfolded), 'data-path': full, onclick: () => fold(full, unfolded)})
			: h('span.leaf', label)),
		h('td.one.cut', last && h('code', last.value, {title: last.value})),
		h('td.opt', line?.length > 1 && spark(line, 60, t.curve(full))),
		h('td.r.dim', last?.time && ago(last.time)),
		h('td.r.dim.opt', last?.count > 0 && num(last.count)),
		h('td.r', last?.retained && remove(full)));
}

const remove = topic => asking('button.link.dim', {
	label: t.deleteRetained, title: t.deleteTitle, danger: true, done: t.deleted,
	what: h('span', h('code', topic), t.deleteWhat),
	work: async () => {
		await api('DELETE', 'retained/' + enc(topic));
		all.delete(topic);
		draw();
	},
});

async function fold(path, unfolded) {
	if (unfolded) open.delete(path);
	else open.add(path);
	try {
		if (!unfolded && cut) await below(path);
	} catch (e) {
		toast(e.message);
	}
	draw();
	one(`[data-path="${CSS.escape(path)}"]`)?.focus();
}

$('tfilter').oninput = draw;
