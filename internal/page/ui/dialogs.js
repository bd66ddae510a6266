// What stands in front of the page: a question, and a short notice.
import {$, h, put, say} from './dom.js';
import {t} from './texts.js';

let timer;
export function toast(text) {
	say('toast', text);
	$('toast').hidden = false;
	clearTimeout(timer);
	timer = setTimeout(() => { $('toast').hidden = true; }, 4000);
}

export async function copy(text) {
	try {
		await navigator.clipboard.writeText(text);
	} catch { // there is none without HTTPS
		const area = h('textarea.vh');
		area.value = text;
		document.body.append(area);
		area.select();
		document.execCommand('copy');
		area.remove();
	}
	toast(t.copied);
}

// ask returns whether somebody says yes. Without yes it only shows something.
export function ask(title, what, yes, danger) {
	const d = $('ask');
	say('ask-h', title);
	put($('ask-t'), h('span', what));
	$('ask-yes').hidden = !yes;
	say('ask-yes', yes || '');
	$('ask-yes').className = danger ? 'danger' : 'go';
	say('ask-no', yes ? t.back : t.close);
	d.returnValue = '';
	d.showModal();
	// The close event comes later: by then the next question may be open.
	return new Promise(done => { d.onclose = () => d.open || done(d.returnValue === 'yes'); });
}

// asking makes a button that asks first. It is off while it works and for 10 s
// after that: people press twice.
export const asking = (kind, {label, title, what, yes = label, work, done, danger}) => h(kind, label + '…', async ({currentTarget: button}) => {
	if (!await ask(title, what, yes, danger)) return;
	button.disabled = true;
	try {
		await work();
		toast(done);
		setTimeout(() => { button.disabled = false; }, 10_000);
	} catch (e) {
		button.disabled = false;
		toast(e.message);
	}
});
