package bridge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"event2mqtt/internal/api"
	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/bundled"
	"event2mqtt/internal/config"
	"event2mqtt/internal/control"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/page"
	"event2mqtt/internal/rules"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/web/access"
	"event2mqtt/internal/web/peer"
	"event2mqtt/internal/web/problem"
)

// This file is the bridge as the API shows it.

// program is a Bridge to the API.
type program struct{ *Bridge }

var _ api.Program = program{}

// serveAPI serves the API and the page from now on. end ends it.
func (b *Bridge) serveAPI() (end func()) {
	b.api = api.New(api.Options{
		Program: program{b}, Journal: b.journal, Trace: b.trace, Access: b.web.Access, Warn: b.web.Warn, Log: b.logs.part("http"),
	})
	b.web.Access.Account = b.login
	p := page.New(page.Options{Admit: b.admitReader, Login: b.web.Access.Login})
	for _, path := range p.Paths() {
		b.web.Handle(path, p)
	}
	b.web.HandleTree(api.Prefix, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.running().plan == nil {
			p := problem.New(http.StatusServiceUnavailable, "the program is starting")
			p.RetryAfter = time.Second
			p.Write(w)
			return
		}
		b.api.ServeHTTP(w, r)
	}))
	return b.api.Close
}

// admitReader returns why a request may not see the page, or nil.
func (b *Bridge) admitReader(r *http.Request) *problem.Details {
	who, why := b.web.Access.Admit(r)
	if why == nil && who.Rights != nil {
		return problem.New(http.StatusForbidden, "an account of the broker may publish and subscribe over the API; the page needs http.token")
	}
	return why
}

// greetReaders says where the page is, and from where it can be seen.
func (b *Bridge) greetReaders() {
	who := "from this machine"
	elsewhere := slices.ContainsFunc(b.sockets.Addresses(httpAt(b.now.plan.HTTP.Listen)), func(a net.Addr) bool {
		at, err := netip.ParseAddrPort(a.String())
		return err != nil || !at.Addr().IsLoopback()
	})
	switch {
	case b.now.plan.HTTP.Token != "":
		who += ", and with http.token from others"
	case elsewhere:
		who += "; set http.token to see it from others"
	}
	b.log.Info().Msgf("see what happens at http://%s/, %s", b.httpAddress(), who)
}

// login lets an account of the bundled broker use the API.
func (b *Bridge) login(r *http.Request, user, password string) (access.Rights, error) {
	broker := b.running().broker
	if broker == nil {
		return nil, errors.New("there are no accounts here: events go to another broker; send http.token as a bearer token")
	}
	return broker.Login(r.Context(), peer.Addr(r), user, password)
}

// running returns what runs now.
func (b *Bridge) running() *running {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.now
}

// loaded is how the configuration that is in use came to be, and what is wrong
// with a newer one.
type loaded struct {
	by      string
	changed []string
	refused *api.RefusedConfig // nil if there is none
}

// refusedConfig is a configuration that is not used, and why.
func refusedConfig(o control.Outcome, by string, err error) *api.RefusedConfig {
	r := &api.RefusedConfig{At: api.Time{Time: o.Time}, By: by}
	if problems, ok := errors.AsType[config.Problems](err); ok {
		for _, p := range problems {
			file, line, column := p.Place()
			r.Problems = append(r.Problems, api.ConfigProblem{File: cmp.Or(file, p.Where), Line: line, Column: column, Key: p.Key, Text: p.Text})
		}
		return r
	}
	for _, text := range o.Problems {
		r.Problems = append(r.Problems, api.ConfigProblem{Text: text})
	}
	return r
}

// Run implements api.Program.
func (p program) Run() string { return "run" + strconv.FormatInt(p.began.UnixMilli(), 36) }

// MainSink implements api.Program.
func (p program) MainSink() string { return mainSink }

// Acked implements api.Program.
func (p program) Acked() uint64 { return p.running().parts[0].cursor.Acked() } // the main sink is the first part

// RefusedIDs implements api.Program.
func (p program) RefusedIDs() map[string]struct{} { return p.refused.IDs() }

// Refusal implements api.Program.
func (p program) Refusal(id string) string {
	all, err := p.refused.Get(id)
	if err != nil {
		return ""
	}
	for _, e := range all {
		if e.Sink == mainSink {
			return e.Reason
		}
	}
	return ""
}

// Route implements api.Program.
func (p program) Route(e *journal.Entry) (r api.Route) {
	if sink, ok := p.running().parts[0].part.(interface {
		Route(*journal.Entry) (topic string, qos byte, retain bool)
	}); ok {
		r.Topic, r.QoS, r.Retain = sink.Route(e)
	}
	return r
}

// TimestampField implements api.Program.
func (p program) TimestampField() string {
	return cmp.Or(p.pipeline.Load().TimestampField, event.DefaultTimestampField)
}

// MaxPayload implements api.Program.
func (p program) MaxPayload() int { return p.pipeline.Load().MaxPayload }

// State implements api.Program.
func (p program) State() api.State {
	p.mu.RLock()
	now, loaded := p.now, p.loaded
	p.mu.RUnlock()
	at := time.Now()
	s := api.State{
		Version: now.plan.Version, Started: api.Time{Time: p.began}, Webhook: now.plan.webhook(),
		Config:  api.Config{File: p.opt.File, Loaded: api.Time{Time: now.since}, By: loaded.by, Changed: cmpOr(loaded.changed), Refused: loaded.refused},
		Devices: p.apiDevices(now), Rules: p.apiRules(now),
	}
	if why := p.ready(now); why != "" {
		s.Taking.Reason = why
	} else {
		s.Taking.OK = true
	}
	stats := now.parts[0].cursor.Stats()
	s.Waiting.Count = stats.Waiting
	if stats.Waiting > 0 {
		s.Waiting.Oldest = &api.Time{Time: at.Add(-stats.Oldest)}
	}
	s.Rate.Minute, s.Rate.Minutes = p.counts.sum(at)
	s.Broker = p.apiBroker(now)
	s.Parts = p.apiParts(now, at)
	return s
}

// cmpOr is a list that is not null in JSON.
func cmpOr(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// webhook is the path, without the slash at its beginning, that the first
// webhook takes events at.
func (p *Plan) webhook() string {
	for _, o := range p.sources {
		if o.Base().Type == "webhook" {
			return "hooks/" + url.PathEscape(o.Base().Name)
		}
	}
	return ""
}

// apiBroker is the broker that events go to.
func (p program) apiBroker(now *running) api.Broker {
	report := now.parts[0].health.Report()
	b := api.Broker{Kind: "external", Address: hostOf(now.plan.MQTT.URL), State: "up", Since: api.Time{Time: report.Since}}
	key := "mqtt.url"
	if now.broker != nil {
		b.Kind, key = "bundled", "broker"
		b.Address = p.listening(now.plan.listeners()[1:])
		b.Clients = now.broker.Stats().Clients
	}
	if report.Level != health.Up {
		b.State = "failed"
		b.Error = &api.Failed{At: api.Time{Time: report.Since}, Text: report.Detail, Key: key}
		if report.Error != "" {
			b.Error.Text = report.Error
		}
	}
	return b
}

// hostOf names the hosts of brokers.
func hostOf(urls []string) string {
	var hosts []string
	for _, text := range urls {
		if u, err := url.Parse(text); err == nil {
			hosts = append(hosts, u.Host)
		}
	}
	return strings.Join(hosts, ", ")
}

// apiParts are all parts.
func (p program) apiParts(now *running, at time.Time) []api.Part {
	var all []api.Part
	sourceAt, sinkAt := 0, 0
	for _, c := range now.parts {
		report := c.health.Report()
		part := api.Part{Name: c.name, State: report.Level.String(), Detail: report.Detail, Since: api.Time{Time: report.Since}, Restarts: report.Restarts}
		key := ""
		switch {
		case c.last:
			part.Name, part.Kind, key = "http", "http", "http.listen"
			part.Detail = "listens on " + p.listening(now.plan.listeners()[:1])
		case c.cursor != nil:
			base := now.plan.sinks[sinkAt].Base()
			part.Kind, part.Type, key = "sink", base.Type, "mqtt.url"
			if sinkAt > 0 {
				key = "sinks[" + strconv.Itoa(sinkAt-1) + "]"
			}
			sinkAt++
			part.Delivered, part.LastEvent = c.cursor.Stats().Delivered, p.lastDelivered(c)
		default:
			part.Kind, part.Type, key = "source", now.plan.sources[sourceAt].Base().Type, "sources["+strconv.Itoa(sourceAt)+"]"
			sourceAt++
			seconds, _, last := p.counts.intake(c.name).pulse.read(at)
			part.Seconds = seconds
			if !last.IsZero() {
				part.LastEvent = &api.Time{Time: last}
			}
		}
		if report.LastError != "" {
			part.LastError = &api.Failed{At: api.Time{Time: report.LastErrorAt}, Text: report.LastError, Key: key}
		}
		all = append(all, part)
	}
	if now.broker != nil {
		all = append(all, api.Part{Name: "broker", Kind: "broker", Type: "bundled", State: "up", Detail: p.brokerListens(now), Since: api.Time{Time: p.began}})
	}
	return append(all, p.apiJournal(now))
}

// brokerListens says where clients find the bundled broker.
func (p program) brokerListens(now *running) string {
	switch {
	case now.broker.Listens():
		return "listens on " + p.listening(now.plan.listeners()[1:])
	case now.plan.Broker.WebSocket.HTTP:
		return "is reached over WebSocket alone, at " + broker.WebSocketPath + " of this address; broker.listen is off"
	}
	return "listens nowhere, so nobody gets the events; set broker.listen, or mqtt.url for another broker"
}

// lastDelivered is when the newest event that a sink has delivered happened;
// nil if it is not in memory any more, or there is none.
func (p program) lastDelivered(c *component) *api.Time {
	acked := c.cursor.Acked()
	if acked == 0 {
		return nil
	}
	if e, ok := p.journal.Recent(acked); ok {
		return &api.Time{Time: e.Time}
	}
	return nil
}

func (p program) apiJournal(now *running) api.Part {
	stats := p.journal.Stats()
	part := api.Part{Name: "journal", Kind: "journal", State: "up", Since: api.Time{Time: p.began}}
	part.Detail = mebibytes(stats.Bytes) + " of " + mebibytes(int64(now.plan.Journal.MaxSize)) + " are used"
	if failure := p.journal.Failure(); failure != nil {
		part.State, part.Detail = "failed", "cannot store events: "+failure.Error()
		part.LastError = &api.Failed{At: api.Time{Time: time.Now()}, Text: failure.Error(), Key: "journal.path"}
	}
	return part
}

func mebibytes(n int64) string { return strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64) + " MiB" }

// apiRules are the rules, and how often each was used.
func (p program) apiRules(now *running) []api.UsedRule {
	counts := p.pipeline.Load().rules.Counts()
	all := make([]api.UsedRule, 0, len(counts))
	for i, c := range counts {
		if i >= len(now.plan.Rules) {
			break // they change this moment
		}
		rule, what := apiRule(&c.Rule, &now.plan.Rules[i])
		all = append(all, api.UsedRule{Rule: rule, What: what, Hits: c.Matched})
	}
	return all
}

// apiRule is a rule of the configuration, and what it does.
func apiRule(is *rules.Rule, c *rules.Config) (r api.Rule, what string) {
	r = api.Rule{N: is.Index + 1, Name: is.Name, Line: is.Line, Kind: "edit"}
	what = strings.Join(c.Match, ", ")
	if what == "" {
		what = "all events"
	}
	switch {
	case c.Keep:
		r.Kind, what = "keep", what+": keep"
	case c.Drop:
		r.Kind, what = "drop", what+": drop"
	case c.MinInterval > 0:
		r.Kind, what = "min_interval", what+": one in "+c.MinInterval.String()
	case c.Dedupe:
		r.Kind, what = "dedupe", what+": dedupe"
	}
	return r, what
}

// Config implements api.Program.
func (p program) Config() []api.Option {
	values := p.running().plan.Values()
	all := make([]api.Option, len(values))
	for i, v := range values {
		all[i] = api.Option{Key: v.Key, Value: v.Text, Origin: v.Origin}
	}
	return all
}

// Schema implements api.Program.
func (p program) Schema() []byte { return Schema() }

// Reload implements api.Program.
func (p program) Reload(ctx context.Context) (any, bool, error) {
	o, err := p.reloadUnless(ctx, byAPI, config.Sum{})
	return o, o.OK, err
}

// Refused implements api.Program.
func (p program) Refused() (any, bool) {
	list := p.listRefused()
	return list, list.Problems == nil
}

// DoRefused implements api.Program.
func (p program) DoRefused(ctx context.Context, text []byte) (any, bool, error) {
	var request control.RefusedRequest
	if err := json.Unmarshal(text, &request); err != nil || request.Do != "send" && request.Do != "drop" {
		return nil, false, problem.New(http.StatusBadRequest, `send JSON such as {"do":"send","all":true} or {"do":"drop","ids":["ID"]}`)
	}
	o := p.doRefused(ctx, request)
	return o, o.Problems == nil, nil
}

// Broker implements api.Program.
func (p program) Broker() api.Bundled {
	if b := p.running().broker; b != nil {
		return ownBroker{b}
	}
	return nil
}

// ownBroker is the bundled broker to the API.
type ownBroker struct{ b *bundled.Broker }

// Clients implements api.Bundled.
func (o ownBroker) Clients() []api.Client {
	versions := map[byte]string{3: "3.1", 4: "3.1.1", 5: "5"}
	sessions := map[bool]string{true: "kept", false: "clean"}
	found := o.b.Clients()
	all := make([]api.Client, len(found))
	for i, c := range found {
		all[i] = api.Client{
			ID: c.ID, User: c.User, Address: c.Address, Protocol: versions[c.Version], Session: sessions[c.Kept],
			KeepAlive: int(c.KeepAlive / time.Second), Subscriptions: cmpOr(c.Filters), Filters: c.Subscriptions, Queue: c.Queue,
			Since: api.Time{Time: c.Since}, Will: c.Will,
		}
	}
	return all
}

// Kick implements api.Bundled.
func (o ownBroker) Kick(id, user string) bool { return o.b.Kick(id, user) }

// Accounts implements api.Bundled.
func (o ownBroker) Accounts() []api.Account {
	found := o.b.AccountList()
	all := make([]api.Account, len(found))
	for i, a := range found {
		all[i] = api.Account{Name: a.Name, Kind: "user"}
		if a.Device {
			all[i].Kind = "device"
		}
		if !a.Seen.IsZero() {
			all[i].Seen = &api.Time{Time: a.Seen}
		}
	}
	return all
}

// Retained implements api.Bundled.
func (o ownBroker) Retained(prefix string, use func(api.Received) bool) {
	o.b.Retained(prefix, func(d brokerDelivery) bool { return use(received(d)) })
}

// Unretain implements api.Bundled.
func (o ownBroker) Unretain(ctx context.Context, topic string) (bool, error) {
	return o.b.Unretain(ctx, topic)
}

// listenPatience bounds how long another broker may take to be subscribed to.
const listenPatience = 10 * time.Second

// Subscribe implements api.Program. Another broker than the bundled one is
// subscribed to over a connection for this alone.
func (p program) Subscribe(ctx context.Context, filter string, use func(api.Received)) (lost <-chan struct{}, cancel func(), err error) {
	now := p.running()
	if now.broker != nil {
		cancel, err = now.broker.Broker.Subscribe(filter, func(d brokerDelivery) { use(received(d)) })
		if err != nil {
			return nil, nil, problem.New(http.StatusUnprocessableEntity, err.Error())
		}
		return nil, cancel, nil
	}
	id, err := clientID(p.stateDir)
	if err != nil {
		return nil, nil, err
	}
	ctx, end := context.WithTimeout(ctx, listenPatience)
	defer end()
	lost, cancel, err = mqtt.Listen(ctx, now.plan.MQTT, now.plan.Publish, id, filter, func(m sinks.Incoming) {
		use(api.Received{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Stored: m.Retained, Received: time.Now()})
	})
	if err != nil {
		return nil, nil, problem.New(http.StatusBadGateway, "the broker cannot be subscribed to: "+err.Error())
	}
	return lost, cancel, nil
}

func received(d brokerDelivery) api.Received {
	return api.Received{Topic: d.Topic, Payload: d.Payload, QoS: d.QoS, Retain: d.Retain, Stored: d.Stored, Received: d.Received}
}

// knownSource reports whether a configuration has a source.
func (p *Plan) knownSource(name string) bool {
	for _, o := range p.sources {
		if o.Base().Name == name {
			return true
		}
	}
	return false
}
