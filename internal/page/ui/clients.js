// Clients of the bundled broker, and the accounts that they log in with.
import {$, h, put, say} from './dom.js';
import {num, t} from './texts.js';
import {ago} from './clock.js';
import {api, enc} from './api.js';
import {asking} from './dialogs.js';

const many = 100; // messages that wait for one client, from which on it is marked

export async function showClients() {
	let clients = [], accounts = [];
	try {
		({clients, accounts = []} = await api('GET', 'clients'));
		say($('clead'), t.connectedClients(clients.length));
	} catch (e) {
		say($('clead'), e.message);
	}
	$('ctable').hidden = !clients.length;
	$('caccounts').hidden = !accounts.length;
	put($('crows'), clients.map(row));
	const used = new Set(clients.map(c => c.user));
	put($('arows'), accounts.map(a => h('tr', h('th', a.name), h('td.dim', a.kind),
		h('td.r.dim', used.has(a.name) ? t.partStates.up : a.seen ? t.seenAgo(ago(a.seen)) : t.never))));
}

function row(c) {
	const hidden = (c.filters ?? 0) - c.subscriptions.length;
	return h('tr',
		h('th', c.id, c.will && h('div.dim', t.will, h('code', c.will))),
		h('td', c.user || h('span.dim', t.noUser)),
		h('td.dim.opt', c.address),
		h('td.dim.opt', t.protocol(c.protocol, c.session)),
		h('td.opt', c.subscriptions.map(s => h('div', h('code', s))), hidden > 0 && h('div.dim', t.moreFilters(hidden))),
		h('td.r' + (c.queue > many ? '.waiting' : ''), num(c.queue)),
		h('td.r.dim.opt', ago(c.since)),
		h('td.r', asking('button', {
			label: t.kick, title: t.kickTitle(c.id), what: t.kickWhat, danger: true, done: t.kicked,
			work: async () => {
				await api('DELETE', `clients/${enc(c.id)}?user=${enc(c.user)}`);
				await showClients();
			},
		})));
}
