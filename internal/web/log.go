package web

import (
	"log"

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
