// Topics as a tree, with their last values. If there are many, what is below a
// level is asked for when the level is opened.
import {$, h, one, put, say, spark} from './dom.js';
import {ago, num, t} from './texts.js';
import {api, enc} from './api.js';
import {asking, toast} from './dialogs.js';

const open = new Set(['event2mqtt', 'event2mqtt/event']);
const numbers = new Map(); // the last values of a topic that are numbers
const points = 60, most = 5000; // topics
const nothing = () => ({known: new Map(), folded: new Map()}); // topics; how many are below a level that was not asked for
let seen = nothing(), asked = 0;
let many = false, cut = false, external = ''; // many: more than one answer has room for

// showTopics asks anew for all that is seen.
export async function showTopics(broker) {
	if (broker) external = broker.kind === 'external' ? broker.address : '';
	const words = $('tfilter').value, fresh = nothing(), mine = ++asked;
	let left = false;
	if (words || !many) left = await learn(fresh, 'topics?q=' + enc(words));
	if (!words) many ||= left;
	if (many && !words) {
		fresh.known.clear();
		for (const path of ['', ...open]) await level(fresh, path && path + '/');
	}
	if (mine !== asked) return;
	seen = fresh;
	cut = left && !!words;
	for (const topic of numbers.keys()) if (!seen.known.has(topic)) numbers.delete(topic);
	for (const [topic, {value}] of seen.known) {
		const n = number(value);
		if (n != null) numbers.set(topic, [...numbers.get(topic) || [], n].slice(-points));
	}
	draw();
}

const level = (into, prefix) => learn(into, `topics?depth=1&prefix=${enc(prefix)}`);

async function learn({known, folded}, path) {
	const {topics, levels, left_out: left} = await api('GET', path);
	for (const {level, below} of levels) folded.set(level, below);
	for (const topic of topics.slice(0, most - known.size)) known.set(topic.topic, topic);
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
	const place = (path, count) => {
		let node = root;
		for (const level of path.split('/')) {
			if (!node.levels.has(level)) node.levels.set(level, {levels: new Map(), count: 0});
			node = node.levels.get(level);
			node.count += count;
		}
		return node;
	};
	for (const topic of seen.known.values()) {
		if ((topic.topic + ' ' + topic.value).toLowerCase().includes(words)) place(topic.topic, 1).last = topic;
	}
	for (const [path, below] of seen.folded) if (!open.has(path)) place(path, below).more = true;
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

function row(name, full, {levels, count, last, more}, unfolded) {
	const label = name || t.emptyLevel, line = numbers.get(full);
	return h('tr',
		h('th', !levels.size && !more ? h('span.leaf', label) : h('button.plain.fold', label, !unfolded && h('span.dim', ` ${num(count)}`),
			{'aria-expanded': unfolded, 'data-path': full}, () => fold(full, unfolded))),
		h('td.one.cut', last && h('code', last.value, {title: last.value})),
		h('td.opt', line?.length > 1 && spark(line, 60, t.curve(full))),
		h('td.r.dim.opt', last?.time && ago(last.time)),
		h('td.r.dim.opt', last?.count > 0 && num(last.count)),
		h('td.r', last?.retained && asking('button.link.dim', {
			label: t.deleteRetained, title: t.deleteTitle, danger: true, done: t.deleted, what: [h('code', full), t.deleteWhat],
			work: async () => {
				await api('DELETE', 'retained/' + enc(full));
				seen.known.delete(full);
				draw();
			},
		})));
}

async function fold(path, unfolded) {
	open[unfolded ? 'delete' : 'add'](path);
	if (many && !unfolded) await level(seen, path + '/').catch(e => toast(e.message));
	draw();
	one(`[data-path="${CSS.escape(path)}"]`)?.focus();
}

let typing;
$('tfilter').oninput = () => {
	draw();
	clearTimeout(typing);
	if (many) typing = setTimeout(() => showTopics().catch(e => toast(e.message)), 300);
};
