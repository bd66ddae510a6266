package tail

import (
	"errors"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"event2mqtt/internal/config"
	"event2mqtt/internal/sources"
)

// Config are the options of a tail source.
type Config struct {
	sources.Common `koanf:",squash"`
	// Paths are files and globs ("**" goes through folders).
	Paths   []string       `koanf:"paths" required:"the files to read" example:"/var/log/printer/*.log" doc:"Files, as globs; ** goes through folders."`
	Format  string         `koanf:"format" default:"json" oneof:"json,regexp,text" doc:"json: each line is an event; regexp: pattern takes it apart; text: the line is the payload."`
	Pattern string         `koanf:"pattern" doc:"Of regexp: named groups become the payload."`
	Event   sources.Naming `koanf:"event" doc:"Where an event's name comes from."`
	TimeKey string         `koanf:"time_key" doc:"A key that holds when it happened."`
	// Start says where to begin in files that are there when the source runs
	// for the first time. Files that appear later are read from their beginning.
	Start      string        `koanf:"start" default:"end" oneof:"end,beginning" doc:"Where to begin in files that are there on the very first run."`
	MaxLine    config.Size   `koanf:"max_line" default:"256KiB" min:"64B" max:"16MiB" doc:"Longer lines are cut."`
	Poll       time.Duration `koanf:"poll" default:"1s" min:"10ms" max:"1h" doc:"How often to look beside the system's notices."`
	RotateWait time.Duration `koanf:"rotate_wait" default:"5s" min:"0s" max:"24h" doc:"How long a renamed file is watched for more, and how long the making of a copy may take."`
}

// The values of Config.Format and Config.Start.
const (
	formatJSON   = "json"
	formatRegexp = "regexp"
	formatText   = "text"

	startEnd       = "end"
	startBeginning = "beginning"
)

// Defaults returns the options that hold where nothing is configured.
func Defaults() (c Config) {
	config.SetDefaults(&c)
	return c
}

// Check tells what is wrong with c that its tags do not, as KeyErrors.
func (c *Config) Check() error {
	_, err := c.compile()
	return err
}

// compile checks c and returns the pattern, if the format has one.
func (c *Config) compile() (*regexp.Regexp, error) {
	var errs []error
	bad := func(key, format string, args ...any) { errs = append(errs, config.Errorf(key, format, args...)) }
	relation := func(key, other, text string) { errs = append(errs, config.Relation(key, other, "%s", text)) }
	for _, p := range c.Paths {
		switch {
		case !doublestar.ValidatePathPattern(p):
			bad("paths", "%q is not a valid glob", p)
		case !filepath.IsAbs(p):
			bad("paths", "%q must begin with /: what a relative path means changes with the folder that the program is started in", p)
		}
	}
	var re *regexp.Regexp
	switch {
	case c.Format == formatRegexp && c.Pattern == "":
		relation("pattern", "format", "is needed with format: regexp")
	case c.Format != formatRegexp && c.Pattern != "":
		relation("pattern", "format", "goes with format: regexp only")
	case c.Pattern != "":
		var err error
		if re, err = regexp.Compile(c.Pattern); err != nil {
			bad("pattern", "%w", err)
		} else if !slices.ContainsFunc(re.SubexpNames(), func(name string) bool { return name != "" }) {
			bad("pattern", "has no named group such as (?P<event>...): the payload would be empty")
		} else if c.Event.Default == "" && !slices.ContainsFunc(c.Event.Keys, func(key string) bool { return re.SubexpIndex(key) >= 0 }) {
			relation("event.default", "event.keys", "is needed: no group of the pattern is named as one of event.keys")
		}
	}
	if c.Format == formatText && c.Event.Default == "" {
		relation("event.default", "format", "is needed with format: text: plain lines have no event name")
	}
	return re, errors.Join(errs...)
}
