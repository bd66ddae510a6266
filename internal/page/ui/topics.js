// Topics as a tree, with their last values. What is below a level is asked for
// when the level is opened.
import {$, h, one, put, say, spark} from './dom.js';
import {ago, num, t} from './texts.js';
import {api, enc} from './api.js';
import {asking, toast} from './dialogs.js';

const open = new Set(['event2mqtt', 'event2mqtt/event']);
const known = new Map();   // by topic
const numbers = new Map(); // the last values of a topic that are numbers
const points = 60, maxTopics = 5000;
let cut = false, external = '';

// showTopics asks anew for all that is seen.
export async function showTopics(broker) {
	external = broker?.kind === 'external' ? broker.address : '';
	known.clear();
	cut = await learn('topics');
	if (cut) for (const path of open) await learn('topics?prefix=' + enc(path + '/'));
	draw();
}

async function learn(path) {
	const {topics, left_out: left} = await api('GET', path);
	for (const topic of topics.slice(0, maxTopics - known.size)) {
		const n = number(topic.value), line = n == null ? [] : [...numbers.get(topic.topic) || [], n];
		known.set(topic.topic, topic);
		numbers.set(topic.topic, line.slice(-points));
	}
	return left;
}

// number is what is drawn of a value: itself, or the first number in its object.
function number(text) {
	try {
		const value = JSON.parse(text);
		if (typeof value === 'number') return value;
		return Object.entries(value).find(([name, x]) => name !== '_timestamp' && typeof x === 'number')?.[1];
	} catch {
		return null;
	}
}

function draw() {
	const words = $('tfilter').value.toLowerCase(), root = {levels: new Map()}, out = [];
	for (const topic of known.values()) {
		if (!(topic.topic + ' ' + topic.value).toLowerCase().includes(words)) continue;
		let node = root;
		for (const level of topic.topic.split('/')) {
			if (!node.levels.has(level)) node.levels.set(level, {levels: new Map(), count: 0});
			node = node.levels.get(level);
			node.count++;
		}
		node.last = topic;
	}
	const walk = (node, path, depth) => {
		for (const [name, child] of [...node.levels].sort(([a], [b]) => a < b ? -1 : 1)) {
			const full = path + name, unfolded = !!words || open.has(full), tr = row(name, full, child, unfolded);
			tr.cells[0].style.paddingLeft = depth * 16 + 'px';
			out.push(tr);
			if (unfolded) walk(child, full + '/', depth + 1);
		}
	};
	walk(root, '', 0);
	say('tlead', t.topicsOf(external) + (cut ? t.topicsCut : ''));
	put($('tree'), out.length ? out : h('tr', h('td.dim', words ? t.noTopicMatches : t.noTopic)));
}

function row(name, full, {levels, count, last}, unfolded) {
	const label = name || t.emptyLevel, line = numbers.get(full);
	return h('tr',
		h('th', !levels.size ? h('span.leaf', label) : h('button.plain.fold', label, !unfolded && h('span.dim', ` ${num(count)}`),
			{'aria-expanded': unfolded, 'data-path': full}, () => fold(full, unfolded))),
		h('td.one.cut', last && h('code', last.value, {title: last.value})),
		h('td.opt', line?.length > 1 && spark(line, 60, t.curve(full))),
		h('td.r.dim.opt', last?.time && ago(last.time)),
		h('td.r.dim.opt', last?.count > 0 && num(last.count)),
		h('td.r', last?.retained && asking('button.link.dim', {
			label: t.deleteRetained, title: t.deleteTitle, danger: true, done: t.deleted, what: [h('code', full), t.deleteWhat],
			work: async () => {
				await api('DELETE', 'retained/' + enc(full));
				known.delete(full);
				draw();
			},
		})));
}

async function fold(path, unfolded) {
	open[unfolded ? 'delete' : 'add'](path);
	if (cut && !unfolded) await learn('topics?prefix=' + enc(path + '/')).catch(e => toast(e.message));
	draw();
	one(`[data-path="${CSS.escape(path)}"]`)?.focus();
}

$('tfilter').oninput = draw;
