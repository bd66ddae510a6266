package mqtt

import (
	"errors"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/format"
	"event2mqtt/internal/sinks"
)

// Options are those of the main sink, from the sections mqtt and publish, or
// those of another one, as Beside has it.
type Options struct {
	sinks.Common
	Config  Config
	Publish PublishConfig
	// Calm is how long a connection must have lasted without a message before
	// its end is blamed on one. Zero is 2 s.
	Calm time.Duration
	// Pause is the first pause after a failure; it doubles each time. Zero is
	// that of retry.Loop.
	Pause time.Duration
	// Repeat is how long after a connect all that is retained is published once
	// more. Zero is a minute.
	Repeat time.Duration

	// Idle is how long nothing must have been published for the end of a connection
	// to a service that ends idle ones to be no trouble. Zero is 10 minutes.
	Idle time.Duration

	beside *beside // nil for the main sink
}

// beside is what distinguishes a sink of the section sinks from the main one.
type beside struct {
	path   string // of its options, such as sinks[2]
	states bool   // it gets states, too
	plot   *plot  // how events are merged; nil if they are not
	base   string // the base topic of the main one, below which commands are
}

// Check implements sinks.Options. Keys begin with mqtt and publish.
func (o *Options) Check() error {
	_, err := o.check()
	return errors.Join(err, o.CheckMatch())
}

// check makes settings of the options. Keys are relative to path.
func (o *Options) check() (settings, error) {
	if o.beside != nil {
		s, err := check(o.Config, o.Publish, keys{"", "publish."})
		s.plot = o.beside.plot
		return s, err
	}
	return check(o.Config, o.Publish, mainKeys)
}

// keys are those that messages name.
func (o *Options) keys() keys {
	if o.beside != nil {
		return keys{o.beside.path + ".", o.beside.path + ".publish."}
	}
	return mainKeys
}

func (o *Options) all() Options { return *o }

// Fingerprint implements sinks.Options: what PublishConfig says of single
// messages changes in place.
func (o *Options) Fingerprint() any {
	type fingerprint struct {
		Config
		base  string
		files [3]config.Sum // a certificate may be another in the same file
	}
	f := fingerprint{Config: o.Config, base: o.Publish.BaseTopic}
	for i, file := range []string{o.Config.TLS.CA, o.Config.TLS.Cert, o.Config.TLS.Key} {
		f.files[i], _ = config.SumOf(file) // what cannot be read is told by Check
	}
	return f
}

// CheckState returns format.ErrNewer if a newer version wrote what the sink keeps
// in a state folder. It changes nothing there.
func (o *Options) CheckState(stateDir string) error {
	if _, err := readLedger(ledgerPath(stateDir, o.Name)); errors.Is(err, format.ErrNewer) {
		return err
	}
	return nil // else it is Run's to tell
}

// Changed returns the keys of what differs in other options of the sink.
func (o *Options) Changed(before sinks.Options) []string {
	old := before.(*Options)
	return append(config.Changed("mqtt", old.Config, o.Config), config.Changed("publish", old.Publish, o.Publish)...)
}

// Build implements sinks.Options.
func (o *Options) Build(d sinks.Deps) (sinks.Sink, error) { return New(*o, d) }
