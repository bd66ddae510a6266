package lines

import (
	"cmp"
	"errors"
	"regexp"
	"slices"
	"strings"

	"event2mqtt/internal/config"
	"event2mqtt/internal/decode"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
)

// Config are the options of a log's format.
type Config struct {
	Format         string         `koanf:"format" default:"json" oneof:"json,regexp,text,logfmt,csv,nginx,docker,journald,syslog" doc:"What an entry is: json is one JSON text or several; regexp is taken apart by pattern; text is published as it is; logfmt has key=value pairs; csv has its columns named in the file's first line; nginx is its combined access log; docker is Docker's json-file log; journald is what journalctl -o json prints; syslog is RFC 3164 or RFC 5424."`
	Pattern        string         `koanf:"pattern" example:"^(?P<at>\\S+) (?P<event>\\w+)" doc:"The regular expression of format regexp; its named groups become the payload."`
	Delimiter      string         `koanf:"delimiter" doc:"What separates the columns of format csv: a comma unless configured, or ; or | or tab."`
	Multiline      Multiline      `koanf:"multiline" doc:"How lines are joined to entries."`
	Encoding       string         `koanf:"encoding" example:"iso-8859-1" doc:"The character set of files without a byte order mark; left out, UTF-8, and Windows-1252 where a line is not UTF-8."`
	Parse          []string       `koanf:"parse" example:"payload" doc:"Paths of the payload whose texts hold JSON, which is then part of the payload."`
	Event          sources.Naming `koanf:"event" doc:"Where an event's name comes from."`
	sources.Timing `koanf:",squash"`
	MaxLine        config.Size `koanf:"max_line" default:"256KiB" min:"64B" max:"16MiB" doc:"The most bytes of an entry; a longer line is cut."`
}

// Multiline are the options that join lines to entries.
type Multiline struct {
	Start string `koanf:"start" example:"^\\d{4}-" doc:"A regular expression that matches the first line of each entry, within the line's first 1024 bytes; lines that do not match belong to the entry before them."`
	JSON  *bool  `koanf:"json" doc:"Whether a JSON object or array that begins at the beginning of a line goes on over the next lines until it closes; true for format json unless configured."`
}

// The values of Config.Format.
const (
	formatJSON     = "json"
	formatRegexp   = "regexp"
	formatText     = "text"
	formatLogfmt   = "logfmt"
	formatCSV      = "csv"
	formatNginx    = "nginx"
	formatDocker   = "docker"
	formatJournald = "journald"
	formatSyslog   = "syslog"
)

// Bounds of what Config's lists may hold.
const (
	maxPaths = 64
	tabName  = "tab"
)

// preset is what a format knows of its events.
type preset struct {
	keys    []string // before those of every source; of the event's name
	name    string   // of events that have none
	timeKey string
	format  event.TimeFormat
}

var presets = map[string]preset{
	formatLogfmt:   {name: "Log", timeKey: "time"},
	formatCSV:      {name: "Row"},
	formatNginx:    {name: "Access", timeKey: "time_local"},
	formatDocker:   {keys: []string{"log._event", "log.event", "log.type", "log.topic"}, name: "Docker", timeKey: "time"},
	formatJournald: {name: "Journal", timeKey: "__REALTIME_TIMESTAMP", format: "unix_us"},
	formatSyslog:   {name: "Syslog", timeKey: "time"},
}

// Prepare fills in what the format knows and nobody configured. It comes
// before Check.
func (c *Config) Prepare() {
	p := presets[c.Format]
	var usual sources.Naming
	config.SetDefaults(&usual)
	if len(p.keys) > 0 && slices.Equal(c.Event.Keys, usual.Keys) {
		c.Event.Keys = slices.Concat(p.keys, usual.Keys)
	}
	c.Event.Default = cmp.Or(c.Event.Default, p.name)
	if c.Timing.Key == "" && p.timeKey != "" {
		c.Timing.Key, c.Timing.Format = p.timeKey, cmp.Or(c.Timing.Format, p.format)
	}
	if c.Multiline.JSON == nil {
		on := c.Format == formatJSON && c.Multiline.Start == ""
		c.Multiline.JSON = &on
	}
	if c.Format == formatCSV {
		c.Delimiter = cmp.Or(c.Delimiter, ",")
	}
}

// Check tells what is wrong with c that its tags do not, as KeyErrors.
func (c *Config) Check() error {
	_, err := c.compile()
	return err
}

// compiled is what the options of a Config stand for.
type compiled struct {
	pattern, start *regexp.Regexp // nil if there is none
	charset        decode.Charset
	delimiter      rune
}

// compile checks c.
func (c *Config) compile() (out compiled, err error) {
	var errs []error
	if out.pattern, err = c.compilePattern(); err != nil {
		errs = append(errs, err)
	}
	if c.Format == formatText && c.Event.Default == "" {
		errs = append(errs, config.Relation("event.default", "format", "is needed with format: text: plain lines have no event name"))
	}
	if c.Multiline.Start != "" {
		if out.start, err = regexp.Compile(c.Multiline.Start); err != nil {
			errs = append(errs, config.Errorf("multiline.start", "%w", err))
		}
		if c.joinsJSON() {
			errs = append(errs, config.Relation("multiline.json", "multiline.start", "does not go with multiline.start: one of them says where an entry ends"))
		}
	}
	if c.joinsJSON() && c.Format != formatJSON && c.Format != formatText && c.Format != formatRegexp {
		errs = append(errs, config.Relation("multiline.json", "format", "goes with format: json, text or regexp only"))
	}
	if c.Multiline.Start != "" && (c.Format == formatDocker || c.Format == formatJournald || c.Format == formatCSV) {
		errs = append(errs, config.Relation("multiline.start", "format", "does not go with format: %s, which says itself where an entry ends", c.Format))
	}
	if out.charset, err = decode.Lookup(c.Encoding); err != nil {
		errs = append(errs, config.Errorf("encoding", "%w", err))
	}
	if out.delimiter, err = c.compileDelimiter(); err != nil {
		errs = append(errs, err)
	}
	if len(c.Parse) > maxPaths {
		errs = append(errs, config.Errorf("parse", "has %d paths; at most %d are allowed", len(c.Parse), maxPaths))
	}
	if slices.Contains(c.Parse, "") {
		errs = append(errs, config.Errorf("parse", "has an empty path; write the key of a text that holds JSON"))
	}
	if err := c.Event.Check("event"); err != nil {
		errs = append(errs, err)
	}
	if err := c.Timing.Check(); err != nil {
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

func (c *Config) compilePattern() (*regexp.Regexp, error) {
	switch {
	case c.Format == formatRegexp && c.Pattern == "":
		return nil, config.Relation("pattern", "format", "is needed with format: regexp")
	case c.Format != formatRegexp && c.Pattern != "":
		return nil, config.Relation("pattern", "format", "goes with format: regexp only")
	case c.Pattern == "":
		return nil, nil
	}
	re, err := regexp.Compile(c.Pattern)
	if err != nil {
		return nil, config.Errorf("pattern", "%w", err)
	}
	names := re.SubexpNames()
	isGroup := func(key string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			return name != "" && (name == key || strings.HasPrefix(key, name+".")) // a group whose text parse opens
		})
	}
	switch {
	case !slices.ContainsFunc(names, func(name string) bool { return name != "" }):
		return nil, config.Errorf("pattern", "has no named group such as (?P<event>...): the payload would be empty")
	case c.Event.Default == "" && !slices.ContainsFunc(c.Event.Keys, isGroup):
		return nil, config.Relation("event.default", "event.keys", "is needed: no group of the pattern is named as one of event.keys")
	}
	return re, nil
}

func (c *Config) compileDelimiter() (rune, error) {
	switch {
	case c.Delimiter == "":
		return ',', nil
	case c.Format != formatCSV:
		return 0, config.Relation("delimiter", "format", "goes with format: csv only")
	case c.Delimiter == tabName:
		return '\t', nil
	case len(c.Delimiter) == 1 && strings.Contains(",;|\t", c.Delimiter):
		return rune(c.Delimiter[0]), nil
	}
	return 0, config.Errorf("delimiter", "%q is not a delimiter; write one of , ; | or tab", c.Delimiter)
}

func (c *Config) joinsJSON() bool { return c.Multiline.JSON != nil && *c.Multiline.JSON }
