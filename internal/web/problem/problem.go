// Package problem writes HTTP errors as problem details (RFC 9457).
package problem

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Details tell the sender of a request what to change. They never hold a
// secret, nor what the sender sent as one.
type Details struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	// RetryAfter, if set, says when to try again.
	RetryAfter time.Duration `json:"-"`
}

func (d *Details) Error() string { return d.Detail }

// New returns details whose title is the status' own text.
func New(status int, detail string) *Details {
	return &Details{Status: status, Title: http.StatusText(status), Detail: detail}
}

// Write answers a request with d.
func (d *Details) Write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	if d.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(max(1, int((d.RetryAfter+time.Second-1)/time.Second))))
	}
	w.WriteHeader(d.Status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false) // it is read by people, and no browser takes it for HTML
	_ = e.Encode(d)        // the sender may be gone
}
