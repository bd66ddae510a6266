package bridge

import (
	"maps"
	"net/http"
	"runtime"
	"slices"
	"strconv"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/metrics"
	"event2mqtt/internal/rules"
	"event2mqtt/internal/sinks"
)

// This file answers /metrics: each part is asked for its figures when somebody
// looks, so that nothing but a counter is paid for while nobody does.

// What sources may count.
type (
	answering interface{ Answers() map[int]uint64 } // by HTTP status
	timing    interface{ UnreadTimes() uint64 }
	skipping  interface{ Skipped() uint64 }
	following interface{ Following() (files, behind int64) }
)

// serveMetrics writes all figures in Prometheus' text format.
func (b *Bridge) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = b.measure().WriteTo(w)
}

func (b *Bridge) measure() *metrics.Page {
	p := &metrics.Page{}
	b.mu.RLock()
	last, now := b.last, b.now
	b.mu.RUnlock()
	if now.plan == nil {
		return p // still starting
	}
	p.Add(metrics.BuildInfo, 1, now.plan.Version, runtime.Version())
	p.Add(metrics.ConfigOK, truth(last.OK))
	p.Add(metrics.ConfigLoaded, float64(now.since.UnixMilli())/1000)
	p.Add(metrics.ConfigReloads, float64(b.counts.reloads.Load()), "ok")
	p.Add(metrics.ConfigReloads, float64(b.counts.failedReloads.Load()), "failed")
	for _, c := range now.parts {
		if c.last {
			continue // who asks has it
		}
		kind := "source"
		if c.cursor != nil {
			kind = "sink"
			c.measureSink(p)
		} else {
			c.measureSource(p, b.counts.intake(c.name))
		}
		report := c.health.Report()
		p.Add(metrics.PartUp, truth(report.Level == health.Up), kind, c.name)
		p.Add(metrics.PartRestarts, float64(report.Restarts), kind, c.name)
	}
	states := b.states.Counts()
	delete(states, event.DiscoverySource)
	for _, source := range slices.Sorted(maps.Keys(states)) {
		p.Add(metrics.SourceStates, float64(states[source]), source)
	}
	measureRules(p, b.pipeline.Load().rules)
	b.measureJournal(p)
	if now.broker != nil {
		now.broker.Measure(p)
	}
	b.web.Measure(p)
	p.AddProcess(b.began)
	return p
}

func (c *component) measureSource(p *metrics.Page, in *intake) {
	p.Add(metrics.SourceEvents, float64(in.accepted.Load()), c.name)
	for i, reason := range reasons {
		p.Add(metrics.SourceRefused, float64(in.refused[i].Load()), c.name, reason)
	}
	if s, ok := c.part.(timing); ok {
		p.Add(metrics.SourceUnreadTimes, float64(s.UnreadTimes()), c.name)
	}
	if s, ok := c.part.(answering); ok {
		answers := s.Answers()
		for _, status := range slices.Sorted(maps.Keys(answers)) {
			p.Add(metrics.WebhookRequests, float64(answers[status]), c.name, strconv.Itoa(status))
		}
	}
	if s, ok := c.part.(skipping); ok {
		p.Add(metrics.TailSkipped, float64(s.Skipped()), c.name)
	}
	if s, ok := c.part.(following); ok {
		files, behind := s.Following()
		p.Add(metrics.TailFiles, float64(files), c.name)
		p.Add(metrics.TailBehind, float64(behind), c.name)
	}
}

func (c *component) measureSink(p *metrics.Page) {
	s := c.cursor.Stats()
	p.Add(metrics.SinkDelivered, float64(s.Delivered), c.name)
	p.Add(metrics.SinkDropped, float64(s.Dropped), c.name)
	p.Add(metrics.SinkWaiting, float64(s.Waiting), c.name)
	p.Add(metrics.SinkOldest, s.Oldest.Seconds(), c.name)
	if sink, ok := c.part.(sinks.Counter); ok {
		p.Add(metrics.SinkSkipped, float64(sink.Skipped()), c.name)
	}
	if sink, ok := c.part.(sinks.Connector); ok {
		p.Add(metrics.SinkConnections, float64(sink.Connections()), c.name)
	}
}

func measureRules(p *metrics.Page, set *rules.Set) {
	for _, c := range set.Counts() {
		label := c.Rule.Label()
		p.Add(metrics.RuleMatched, float64(c.Matched), label)
		p.Add(metrics.RuleDropped, float64(c.Dropped), label)
		p.Add(metrics.RuleHeld, float64(c.Held), label)
		p.Add(metrics.RuleReplaced, float64(c.Replaced), label)
		p.Add(metrics.RuleFailures, float64(c.Failed), label)
	}
}

func (b *Bridge) measureJournal(p *metrics.Page) {
	s := b.journal.Stats()
	p.Add(metrics.JournalEvents, float64(s.Appended))
	p.Add(metrics.JournalRefused, float64(s.Refused), "full")
	p.Add(metrics.JournalRefused, float64(s.Failed), "error")
	p.Add(metrics.JournalDropped, float64(s.Dropped))
	p.Add(metrics.JournalLost, float64(s.Lost))
	p.Add(metrics.JournalDamaged, float64(s.Damaged))
	p.Add(metrics.JournalBytes, float64(s.Bytes))
	p.Add(metrics.JournalSegments, float64(s.Segments))
	p.Add(metrics.JournalFailing, truth(b.journal.Failure() != nil))
	p.Add(metrics.JournalDiskReads, float64(s.DiskReads))
	p.AddHistogram(metrics.JournalSync, b.journal.SyncTimes())
}

// truth is 1 or 0.
func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
