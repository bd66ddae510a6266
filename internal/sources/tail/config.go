package tail

import (
	"errors"
	"path/filepath"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"event2mqtt/internal/config"
	"event2mqtt/internal/device"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/tail/lines"
)

// Config are the options of a tail source.
type Config struct {
	sources.Common `koanf:",squash"`
	// Paths are files and globs ("**" goes through folders).
	Paths         []string `koanf:"paths" required:"the files to read" example:"/var/log/printer/*.log" doc:"The files to read, as globs; ** goes through folders. A path that exists as it is written is that file, whatever its brackets mean in a glob."`
	Exclude       []string `koanf:"exclude" example:"[\"*.old\", /var/log/printer/debug/**]" doc:"Globs of files that are not read though they match paths; one without / is about the file's name alone."`
	lines.Config  `koanf:",squash"`
	sources.Shown `koanf:",squash"`
	// Start says where to begin in files that are there when the source runs
	// for the first time. Files that appear later are read from their beginning.
	Start      string        `koanf:"start" default:"end" oneof:"end,beginning" doc:"Where to begin in files that are there on the very first run."`
	FlushAfter time.Duration `koanf:"flush_after" default:"5s" min:"0s" max:"24h" doc:"How long a last line without an end, or an entry that may go on, waits for more before it is taken as it is; JSON is taken only if it is whole. 0s waits for ever."`
	Poll       time.Duration `koanf:"poll" default:"1s" min:"10ms" max:"1h" doc:"How often to look beside the system's notices. Thousands of files are looked at less often, so that looking takes little of the processor."`
	RotateWait time.Duration `koanf:"rotate_wait" default:"5s" min:"0s" max:"24h" doc:"How long a renamed file is watched for more, and how long the making of a copy may take."`
	MaxFiles   int           `koanf:"max_files" default:"25000" min:"1" max:"200000" doc:"How many files are followed at most; of more, those written to last are."`
	MaxOpen    int           `koanf:"max_open" default:"256" min:"4" max:"100000" doc:"How many files are held open at most, and never more than a quarter of what the system allows the program; the others are opened when they change."`
}

// The values of Config.Start.
const (
	startEnd       = "end"
	startBeginning = "beginning"
)

// Defaults returns the options that hold where nothing is configured.
func Defaults() (c Config) {
	config.SetDefaults(&c)
	return c
}

// Thing implements sources.Describer.
func (c *Config) Thing() (device.Device, bool) { return c.ThingOf(c.Name, c.Event.Listed()) }

// maxPatterns bounds the globs of a source.
const maxPatterns = 1000

// Check tells what is wrong with c that its tags do not, as KeyErrors.
func (c *Config) Check() error {
	var errs []error
	bad := func(key, format string, args ...any) { errs = append(errs, config.Errorf(key, format, args...)) }
	for _, p := range c.Paths {
		switch {
		case !doublestar.ValidatePathPattern(p):
			bad("paths", "%q is not a valid glob", p)
		case !filepath.IsAbs(p):
			bad("paths", "%q must begin with /: what a relative path means changes with the folder that the program is started in", p)
		}
	}
	for _, p := range c.Exclude {
		switch {
		case !doublestar.ValidatePathPattern(p):
			bad("exclude", "%q is not a valid glob", p)
		case strings.Contains(p, "/") && !filepath.IsAbs(p):
			bad("exclude", "%q must begin with /, or be without one and be about the file's name alone", p)
		}
	}
	if n := len(c.Paths); n > maxPatterns {
		bad("paths", "has %d globs; at most %d are allowed", n, maxPatterns)
	}
	if n := len(c.Exclude); n > maxPatterns {
		bad("exclude", "has %d globs; at most %d are allowed", n, maxPatterns)
	}
	return errors.Join(append(errs, c.CheckShown(), c.Config.Check())...)
}

// excludes reports whether a path is left out.
func (c *Config) excludes(path string) bool {
	for _, p := range c.Exclude {
		subject := path
		if !strings.Contains(p, "/") {
			subject = filepath.Base(path)
		}
		if ok, _ := doublestar.PathMatch(p, subject); ok { // the pattern was checked
			return true
		}
	}
	return false
}
