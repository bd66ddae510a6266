package bridge

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config/file"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/sources/tail"
)

// Probed is one thing that was tried out.
type Probed struct {
	What   string
	Detail string
	Err    error // what is wrong
}

// Probe tries out what a configuration names: brokers, files, addresses. It
// calls tell with each as soon as it is known.
func (p *Plan) Probe(ctx context.Context, stateDir string, tell func(Probed)) error {
	if len(p.MQTT.URL) > 0 {
		c := p.MQTT
		if c.ClientID == "" {
			c.ClientID = "event2mqtt"
		}
		err := mqtt.Probe(ctx, c, p.Publish, func(broker string, err error) {
			tell(Probed{"broker " + broker, "connected; a message came back", err})
		})
		if err != nil {
			return err
		}
	}
	running := Running(stateDir)
	for _, l := range p.listeners() {
		opened, err := newSockets().listen(l.key, l.network, l.address)
		detail := "free"
		switch {
		case err == nil:
			_ = opened.Close()
		case running:
			detail, err = "in use; event2mqtt runs with this state folder", nil
		}
		tell(Probed{fmt.Sprintf("%s %s", l.key, l.address), detail, err})
	}
	for _, o := range p.sources {
		t, ok := o.(*tailOptions)
		if !ok {
			continue
		}
		what := "source " + t.Name
		if err := noFiles(t.Paths); err != nil {
			tell(Probed{What: what, Err: err})
			continue
		}
		n, err := probeTail(ctx, t.Config)
		if n == 0 && err == nil {
			err = brackets(t.Paths)
		}
		detail := counted(n, "file") + " can be read"
		if n == 0 {
			detail = "no file is there yet"
		}
		tell(Probed{what, detail, err})
	}
	return nil
}

// noFiles tells which paths, written without a pattern, are something that has
// no lines to read, such as a folder or a pipe.
func noFiles(paths []string) error {
	var errs []error
	for _, path := range paths {
		info, err := file.Stat(path)
		switch {
		case errors.Is(err, file.ErrNoAnswer):
			errs = append(errs, err)
		case err != nil: // a pattern, or not there yet
		case info.IsDir():
			errs = append(errs, fmt.Errorf("%s is a folder, not a file; write %s for the files in it", path, filepath.Join(path, "*")))
		case !info.Mode().IsRegular():
			errs = append(errs, fmt.Errorf("%s is %s, not a file; what comes through it is not read", path, file.Kind(info.Mode())))
		}
	}
	return errors.Join(errs...)
}

// brackets tells of a path that is there as it is written, and that means
// another one since it is a pattern.
func brackets(paths []string) error {
	for _, path := range paths {
		if _, err := file.Stat(path); err == nil && strings.ContainsAny(path, "[{*?") {
			escaped := strings.NewReplacer("[", `\[`, "{", `\{`, "*", `\*`, "?", `\?`).Replace(path)
			return fmt.Errorf("%s is there and does not match itself: in a pattern, [ ] stand for one of the letters between them; write %s", path, escaped)
		}
	}
	return nil
}

// probeTail counts the files that a source can read. It gives up on one that
// blocks; its goroutine stays with that until the program ends, which is next.
func probeTail(ctx context.Context, c tail.Config) (n int, err error) {
	source, err := tail.New(c, zerolog.Nop())
	if err != nil {
		return 0, err
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := source.Probe()
		done <- result{n, err}
	}()
	const patience = 10 * time.Second
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.n, r.err
	case <-timer.C:
		return 0, fmt.Errorf("a file does not answer within %s; is one of those that %s names a pipe, or on a mount whose server is away?", patience, strings.Join(c.Paths, ", "))
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
