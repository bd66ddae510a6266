// Clients of the bundled broker, and the accounts that they log in with.
import {$, h, put, say} from './dom.js';
import {ago, num, t} from './texts.js';
import {api, enc} from './api.js';
import {asking} from './dialogs.js';

const long = 100; // messages that wait for one client

export async function showClients() {
	let clients = [], accounts = [];
	try {
		({clients, accounts} = await api('GET', 'clients'));
		say('clead', t.connectedClients(clients.length));
	} catch (e) {
		say('clead', e.message);
	}
	$('ctable').hidden = !clients.length;
	$('caccounts').hidden = !accounts.length;
	put($('crows'), clients.map(row));
	const seen = a => clients.some(c => c.user === a.name) ? t.connectedNow : a.seen ? t.seenAgo(ago(a.seen)) : t.never;
	put($('arows'), accounts.map(a => h('tr', h('th', a.name), h('td.dim', a.kind), h('td.r.dim', seen(a)))));
}

function row(c) {
	return h('tr', h('th', c.id, c.will && h('div.dim', t.will, h('code', c.will))),
		h('td.opt', c.user || h('span.dim', t.noUser)), h('td.dim.opt', c.address), h('td.dim.opt', `${c.protocol}, ${c.session}`),
		h('td.opt', c.subscriptions.map(s => h('div', h('code', s)))),
		h('td.r' + (c.queue > long ? '.waiting' : ''), num(c.queue)), h('td.r.dim.opt', ago(c.since)),
		h('td.r', asking('button', {
			label: t.kick, title: t.kickTitle(c.id), what: t.kickWhat, danger: true, done: t.kicked,
			work: () => api('DELETE', `clients/${enc(c.id)}?user=${enc(c.user)}`).then(showClients),
		})));
}
