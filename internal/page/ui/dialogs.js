// What stands in front of the page: a question, a larger picture, a notice.
import {$, h, put, say} from './dom.js';
import {t} from './texts.js';

let timer;
export function toast(text) {
	say($('toast'), text);
	$('toast').hidden = false;
	clearTimeout(timer);
	timer = setTimeout(() => { $('toast').hidden = true; }, 4000);
}

// copy works without HTTPS, too, where there is no clipboard API.
export async function copy(text) {
	try {
		await navigator.clipboard.writeText(text);
	} catch {
		const area = h('textarea.vh');
		area.value = text;
		document.body.append(area);
		area.select();
		document.execCommand('copy');
		area.remove();
	}
	toast(t.copied);
}

// ask returns whether somebody says yes. Without yes it only tells something.
export function ask(title, what, yes, danger) {
	const d = $('ask');
	say($('ask-h'), title);
	put($('ask-t'), typeof what === 'string' ? h('span', what) : what);
	$('ask-yes').hidden = !yes;
	say($('ask-yes'), yes || '');
	$('ask-yes').className = danger ? 'danger' : 'go';
	say($('ask-no'), yes ? t.back : t.close);
	d.returnValue = '';
	d.showModal();
	return new Promise(done => { d.onclose = () => done(d.returnValue === 'yes'); });
}

const rest = 10_000; // ms until a button that has done its work can be pressed again

// asking makes a button that asks first, and is off while it works and for a
// while after that: people press twice.
export function asking(kind, {label, title, what, work, done, danger}) {
	return h(kind, label + '…', {onclick: async ({currentTarget: button}) => {
		if (!await ask(title, what, label, danger)) return;
		button.disabled = true;
		try {
			await work();
			toast(done);
			setTimeout(() => { button.disabled = false; }, rest);
		} catch (e) {
			button.disabled = false;
			toast(e.message);
		}
	}});
}

export function enlarge(name, src) {
	say($('big-h'), name);
	put($('big-p'), h('img', {src, alt: t.picture(name)}));
	$('big').dataset.of = name;
	$('big').showModal();
}

// enlarged shows a newer picture where the one before is shown large.
export function enlarged(name, src) {
	const image = $('big-p').firstElementChild;
	if ($('big').open && $('big').dataset.of === name && image) image.src = src;
}
