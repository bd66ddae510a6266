package bridge

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"

	"event2mqtt/internal/config"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/listen"
	"event2mqtt/internal/sources"
)

// This file is what a configuration says that is allowed, and most likely not
// meant; and what would be refused only when it is run.

// maxUnixPath is how long a unix socket's path may be on Linux, sockaddr_un
// without its closing zero; elsewhere it is a little less.
const maxUnixPath = 107

// checkPaths tells of paths that cannot be used, as KeyErrors.
func (p *Plan) checkPaths() error {
	var errs config.Errors
	if n := len(p.Broker.Unix); n > maxUnixPath && len(p.MQTT.URL) == 0 {
		errs.Bad("broker.unix", "the path has %d bytes; a unix socket's has at most %d", n, maxUnixPath)
	}
	const relative = "%q must begin with /: what a relative path means changes with the folder that the program is started in"
	if path := p.Broker.Unix; path != "" && !filepath.IsAbs(path) && len(p.MQTT.URL) == 0 {
		errs.Bad("broker.unix", relative, path)
	}
	if path := p.Journal.Path; path != "" && !filepath.IsAbs(path) {
		errs.Bad("journal.path", relative, path)
	} else if path != "" {
		if info, err := file.Stat(path); err == nil && !info.IsDir() {
			errs.Bad("journal.path", "%s is there and is no folder", path)
		} else if errors.Is(err, file.ErrNoAnswer) {
			errs.Bad("journal.path", "%w", err)
		}
	}
	return errs.Err()
}

func (p *Plan) warn(key, format string, args ...any) {
	p.doc.Warnings = append(p.doc.Warnings, p.problem(key, fmt.Sprintf(format, args...)).String())
}

func (p *Plan) warnOfSurprises() {
	for i, o := range p.sources[:min(len(p.sources), len(p.Sources))] {
		p.warnOfEmptySecrets(fmt.Sprintf("sources[%d]", i), o)
	}
	p.warnOfNeighbours()
	p.warnOfOpenSources()
	p.warnOfCircles()
	p.warnOfMixedEvents()
	p.warnOfDivertedEvents()
	p.warnOfRetainedEvents()
	p.warnOfNoWill()
	p.warnOfSinks()
}

// warnOfNeighbours tells what sources know of those before them.
func (p *Plan) warnOfNeighbours() {
	for i, o := range p.sources {
		n, ok := o.(neighbour)
		if !ok {
			continue
		}
		for j, other := range p.sources[:i] {
			if err := n.WarnBeside(other, fmt.Sprintf("sources[%d]", j)); err != nil {
				p.doc.Warnings = append(p.doc.Warnings, p.doc.Explain(fmt.Sprintf("sources[%d]", i), err)[0].String())
				break // it is said once of each
			}
		}
	}
}

// warnOfSinks tells what sinks know themselves, and of one whose events fill a
// journal that is to take all.
func (p *Plan) warnOfSinks() {
	for i, sink := range p.sinks {
		path := "" // of the main one, whose keys tell it
		if i > 0 {
			path = fmt.Sprintf("sinks[%d]", i-1)
		}
		if w, ok := sink.(warner); ok {
			if err := w.Warn(); err != nil {
				for _, problem := range p.doc.Explain(path, err) {
					p.doc.Warnings = append(p.doc.Warnings, problem.String())
				}
			}
		}
		if i > 0 && p.Journal.WhenFull == journal.DropOldest && sink.Base().WhenFull == journal.Refuse {
			p.warn(path+".when_full", "new events are refused while the journal is full of those that this sink has not got, although journal.when_full is drop_oldest; that holds for the main sink alone")
		}
	}
}

// warnOfCircles tells of files that a sink writes and a source reads.
func (p *Plan) warnOfCircles() {
	for i, sink := range p.sinks[1:] {
		w, ok := sink.(writer)
		if !ok {
			continue
		}
		for _, source := range p.sources {
			r, ok := source.(reader)
			if ok && slices.ContainsFunc(w.Writes(), r.Reads) {
				p.warn(fmt.Sprintf("sinks[%d].path", i), "the source %s reads what is written here, so that each event makes another, without end; choose another path, or exclude it there", source.Base().Name)
			}
		}
	}
}

// warnOfEmptySecrets tells of secrets that are written, and empty, such as by a
// variable: they protect nothing.
func (p *Plan) warnOfEmptySecrets(path string, o sources.Options) {
	for _, key := range p.doc.EmptySecrets(path, o) {
		p.warn(key, "is empty, which is as if it were not there: it keeps nobody out")
	}
}

// warnOfOpenSources tells of sources that take events from anybody.
func (p *Plan) warnOfOpenSources() {
	host, _, err := net.SplitHostPort(p.HTTP.Listen)
	if err != nil || listen.IsLoopback(host) {
		return
	}
	for i, o := range p.sources {
		if open, ok := o.(opener); !ok || !open.Open() {
			continue
		}
		key := fmt.Sprintf("sources[%d].auth", i)
		if len(p.Sources) == 0 {
			key = "http.listen"
		}
		p.warn(key, "the webhook %s has no authentication, and %s can be reached from other machines: anybody there may send events; set a token or a signature below auth, or listen on 127.0.0.1",
			o.Base().Name, p.HTTP.Listen)
	}
}

// warnOfNoWill tells that nobody will see the program's end.
func (p *Plan) warnOfNoWill() {
	if p.HomeAssistant.Discovery && p.MQTT.Retain == "never" {
		p.warn("mqtt.retain", "Home Assistant forgets all devices when it restarts, since nothing that it is told is retained; leave it at as_told, or write home_assistant: {discovery: false}")
		return
	}
	if w := p.MQTT.Will; p.HomeAssistant.Discovery && !(w.Enabled && w.Retain) {
		key := "mqtt.will.enabled"
		if w.Enabled {
			key = "mqtt.will.retain"
		}
		p.warn(key, "without a retained will Home Assistant shows the last values of all devices as if they were true after the program has ended; leave it at true, or write home_assistant: {discovery: false}")
	}
}
