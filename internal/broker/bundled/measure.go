package bundled

import "event2mqtt/internal/metrics"

// Measure adds the broker's figures to what is shown of the program.
func (b *Broker) Measure(p *metrics.Page) {
	s := b.Stats()
	p.Add(metrics.BrokerClients, float64(s.Clients))
	p.Add(metrics.BrokerSessions, float64(s.Sessions))
	p.Add(metrics.BrokerSubscriptions, float64(s.Subscriptions))
	p.Add(metrics.BrokerRetained, float64(s.Retained))
	p.Add(metrics.BrokerRetainedBytes, float64(s.RetainedBytes))
	p.Add(metrics.BrokerQueuedBytes, float64(s.QueuedBytes))
	p.Add(metrics.BrokerReceived, float64(s.Received))
	p.Add(metrics.BrokerSent, float64(s.Sent))
	p.Add(metrics.BrokerDropped, float64(s.Dropped), "queue")
	p.Add(metrics.BrokerDropped, float64(s.TooLarge), "too_large")
	p.Add(metrics.BrokerDropped, float64(s.RetainedRefused), "retained_full")
	p.Add(metrics.BrokerDenied, float64(s.Denied))
	p.Add(metrics.BrokerConnections, float64(s.Connections))
	p.Add(metrics.BrokerRefused, float64(s.RefusedConnections), "limit")
	p.Add(metrics.BrokerRefused, float64(s.RefusedLogins), "login")
	p.Add(metrics.BrokerCutOff, float64(s.CutOff))
	p.Add(metrics.BrokerExpired, float64(s.ExpiredSessions))
}
