package httpsink

import (
	"net/http"
	"time"
)

// SetPauses shortens the pauses of a sink that is built of the options.
func (o *Options) SetPauses(min, max, wrong time.Duration) {
	o.pauses = pauses{min: min, max: max, wrong: wrong}
}

// Sign is what attempts are signed with.
func Sign(h http.Header, secrets, id string, now time.Time, body []byte) error {
	keys, err := parseKeys(secrets)
	if err == nil {
		sign(h, keys, id, now, body)
	}
	return err
}
