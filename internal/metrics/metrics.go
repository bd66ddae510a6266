// Package metrics says which measurements the program shows at /metrics, and
// writes them in Prometheus' text format, version 0.0.4
// (https://prometheus.io/docs/instrumenting/exposition_formats). It holds no
// counters: those belong to the parts, which are asked when somebody looks. It
// does not push, and it knows nothing of HTTP.
package metrics

import (
	"io"
	"strconv"
	"strings"
)

// Kind is what a metric's value means, in Prometheus' words.
type Kind string

// The kinds.
const (
	Counter   Kind = "counter"   // only grows, but for a restart
	Gauge     Kind = "gauge"     // is what it is now
	Histogram Kind = "histogram" // how often a value was at most how large
)

// Metric describes one metric. Its labels have bounded values: names from the
// configuration, and words and statuses of the program. The name of an event or
// of a client is never one.
type Metric struct {
	Name   string
	Help   string // one sentence, without a line break
	Kind   Kind
	Labels []string
}

// maxLabel bounds a label's value, in bytes. Longer ones are cut.
const maxLabel = 256

// Page collects the samples of one look at the program. The zero value is
// empty. It has one user at a time.
type Page struct {
	samples [count][]byte
}

// Add adds a sample. The values stand for the metric's labels, in their order.
func (p *Page) Add(id ID, value float64, labels ...string) {
	p.sample(id, "", value, labels, "")
}

// AddHistogram adds what a distribution holds.
func (p *Page) AddHistogram(id ID, d *Distribution, labels ...string) {
	total := uint64(0)
	for i := range d.counts {
		total += d.counts[i].Load()
		bound := "+Inf"
		if i < len(bounds) {
			bound = strconv.FormatFloat(bounds[i].Seconds(), 'f', -1, 64)
		}
		p.sample(id, "_bucket", float64(total), labels, bound)
	}
	p.sample(id, "_sum", float64(d.nanoseconds.Load())/1e9, labels, "")
	p.sample(id, "_count", float64(total), labels, "")
}

// sample writes one line; bound is the value of the label le, if it is not "".
func (p *Page) sample(id ID, suffix string, value float64, labels []string, bound string) {
	m := &table[id]
	out := append(append(p.samples[id], m.Name...), suffix...)
	before := byte('{')
	label := func(name, value string) {
		out = append(append(append(out, before), name...), '=', '"')
		out = append(appendEscaped(out, value), '"')
		before = ','
	}
	for i, name := range m.Labels {
		label(name, labels[i])
	}
	if bound != "" {
		label("le", bound)
	}
	if before == ',' {
		out = append(out, '}')
	}
	out = strconv.AppendFloat(append(out, ' '), value, 'f', -1, 64)
	p.samples[id] = append(out, '\n')
}

// appendEscaped appends a label's value as the format wants it: valid UTF-8, in
// which a backslash, a quote and a line break are escaped.
func appendEscaped(out []byte, value string) []byte {
	value = strings.ToValidUTF8(value[:min(len(value), maxLabel)], "\uFFFD")
	for i := range len(value) {
		switch c := value[i]; c {
		case '\\', '"':
			out = append(out, '\\', c)
		case '\n':
			out = append(out, '\\', 'n')
		default:
			out = append(out, c)
		}
	}
	return out
}

// WriteTo writes all metrics in the order of the table. Those without a sample
// are described all the same, so that a reader learns that they exist.
func (p *Page) WriteTo(w io.Writer) (n int64, err error) {
	var out []byte
	for id := range table {
		m := &table[id]
		out = append(out, "# HELP "+m.Name+" "+m.Help+"\n# TYPE "+m.Name+" "+string(m.Kind)+"\n"...)
		out = append(out, p.samples[id]...)
	}
	written, err := w.Write(out)
	return int64(written), err
}

// All returns what there is, in the order in which it is written.
func All() []Metric { return append([]Metric(nil), table[:]...) }
