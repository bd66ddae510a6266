package tail_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/sourcetest"
	"event2mqtt/internal/sources/tail"
)

func TestTheContractOfSources(t *testing.T) {
	sourcetest.Run(t, func(t testing.TB) sourcetest.Subject {
		dir := t.TempDir()
		c := tail.Defaults()
		c.Name, c.Paths, c.Poll = "test", []string{filepath.Join(dir, "*.log")}, 20*time.Millisecond
		s, err := c.Build(sources.Deps{Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		return sourcetest.Subject{Source: s, Remembers: true, Send: func(t testing.TB, name string) {
			write(t, filepath.Join(dir, "a.log"), line(name))
		}}
	})
}
