package bridge

import (
	"sync/atomic"

	"github.com/rs/zerolog"
)

// This file is how much each part of the program logs.

// LevelsConfig are the options of the log.levels section: a level for each part
// that has one of its own. Lines carry the part's name as "part".
type LevelsConfig struct {
	Bridge    string `koanf:"bridge" oneof:"debug,info,warn,error" doc:"The level of starting, stopping and reloading; left out, it is log.level."`
	HTTP      string `koanf:"http" oneof:"debug,info,warn,error" doc:"The level of the HTTP server; left out, it is log.level."`
	Broker    string `koanf:"broker" oneof:"debug,info,warn,error" doc:"The level of the bundled broker; left out, it is log.level."`
	MQTT      string `koanf:"mqtt" oneof:"debug,info,warn,error" doc:"The level of the connection that events are published through; left out, it is log.level."`
	Journal   string `koanf:"journal" oneof:"debug,info,warn,error" doc:"The level of the journal; left out, it is log.level."`
	Rules     string `koanf:"rules" oneof:"debug,info,warn,error" doc:"The level of rules; left out, it is log.level."`
	Webhook   string `koanf:"webhook" oneof:"debug,info,warn,error" doc:"The level of webhook sources; left out, it is log.level."`
	Tail      string `koanf:"tail" oneof:"debug,info,warn,error" doc:"The level of tail sources; left out, it is log.level."`
	OctoPrint string `koanf:"octoprint" oneof:"debug,info,warn,error" doc:"The level of octoprint sources; left out, it is log.level."`
	File      string `koanf:"file" oneof:"debug,info,warn,error" doc:"The level of file sinks; left out, it is log.level."`
}

// byPart are the levels that are configured, "" for log.level.
func (c LevelsConfig) byPart() map[string]string {
	return map[string]string{
		"bridge": c.Bridge, "http": c.HTTP, "broker": c.Broker, "mqtt": c.MQTT, "journal": c.Journal,
		"rules": c.Rules, "webhook": c.Webhook, "tail": c.Tail, "octoprint": c.OctoPrint, "file": c.File,
	}
}

// logs makes the loggers of parts. Their levels can change while they are used.
type logs struct {
	root  zerolog.Logger
	gates map[string]*gate // by part; the map does not change
}

// gate lets through what is of a level at least. Loggers ask it before they
// make a line.
type gate struct{ least atomic.Int32 }

// Sample implements zerolog.Sampler.
func (g *gate) Sample(level zerolog.Level) bool { return int32(level) >= g.least.Load() }

// newLogs makes the loggers of the parts that LevelsConfig has, and of types that
// it may not have.
func newLogs(root zerolog.Logger, c LogConfig, types ...string) *logs {
	l := &logs{root, map[string]*gate{}}
	for part := range c.Levels.byPart() {
		l.gates[part] = &gate{}
	}
	for _, kind := range types {
		l.gates[kind] = &gate{} // also one that has no level of its own
	}
	l.set(c)
	return l
}

// part returns the logger of a part, which LevelsConfig must have: a part that
// it has not is a bug, which every test finds.
func (l *logs) part(name string) zerolog.Logger {
	g := l.gates[name]
	if g == nil {
		panic("log.levels has no part " + name)
	}
	return l.root.With().Str("part", name).Logger().Sample(g)
}

// set changes the levels of all loggers that were made.
func (l *logs) set(c LogConfig) {
	levels := c.Levels.byPart()
	for part, gate := range l.gates {
		level := levels[part]
		if level == "" {
			level = c.Level
		}
		parsed, err := zerolog.ParseLevel(level)
		if err != nil {
			parsed = zerolog.InfoLevel // was checked
		}
		gate.least.Store(int32(parsed))
	}
}
