package web

import (
	"log"
	"maps"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// debugLog sends net/http's own messages, which are about peers that went away
// or spoke no HTTP, to the debug log.
func debugLog(l zerolog.Logger) *log.Logger { return log.New(debugWriter{l}, "", 0) }

type debugWriter struct{ log zerolog.Logger }

func (w debugWriter) Write(p []byte) (int, error) {
	w.log.Debug().Msg("http: " + string(p[:max(0, len(p)-1)]))
	return len(p), nil
}

// notices bound how often the log says the same: once a minute for each key,
// and for so many keys; those beyond share one.
type notices struct {
	mu   sync.Mutex
	said map[string]time.Time
}

const (
	quiet      = time.Minute
	maxNotices = 256
)

// Warn returns a line about what was refused, for handlers, too; or nil, which
// writes nothing, if its like was written within the last minute.
func (s *Server) Warn(key string) *zerolog.Event {
	n, now := &s.notices, time.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.said == nil {
		n.said = map[string]time.Time{}
	}
	if _, known := n.said[key]; !known && len(n.said) >= maxNotices {
		maps.DeleteFunc(n.said, func(_ string, at time.Time) bool { return now.Sub(at) >= quiet })
		if len(n.said) >= maxNotices {
			key = "" // of all others
		}
	}
	if at, known := n.said[key]; known && now.Sub(at) < quiet {
		return nil
	}
	n.said[key] = now
	return s.log.Warn()
}
