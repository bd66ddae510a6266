package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// This file gives OctoPrint commands.

// Tell gives a command: body is sent to a path of the API, such as /api/job. may
// is what the key's user needs for it. OctoPrint answers what it has accepted
// with nothing, and begins with it then; the status is what it says.
func (c *Client) Tell(ctx context.Context, path string, may Permission, body any) (status int, err error) {
	response, answer, err := c.exchange(ctx, http.MethodPost, c.options.URL.String()+path, body)
	if err != nil {
		return 0, c.explain(err)
	}
	if err := c.refused(response, answer, may); err != nil {
		return response.StatusCode, err
	}
	return response.StatusCode, nil
}

// refused is the error for an answer that says no, and nil for one that says
// yes. may is what is needed for what was asked.
func (c *Client) refused(response *http.Response, answer []byte, may Permission) error {
	said, isSaid := reason(answer)
	no := func(format string, args ...any) error {
		return &Error{Kind: Refused, Text: fmt.Sprintf("OctoPrint at %s ", c.options.URL) + fmt.Sprintf(format, args...)}
	}
	switch s := response.StatusCode; {
	case s == http.StatusForbidden && isSaid:
		return no("does not allow it (status 403): the user of the API key needs the permission %s, which is given in OctoPrint under Settings, Access Control", may)
	case s >= 400 && s < 500 && isSaid && !strings.Contains(said, "CSRF"): // which is its word for a wrong key
		return no("refuses: %s (status %d)", said, s)
	}
	if err := refusal(response, answer); err != nil {
		return c.explain(err)
	}
	if s := response.StatusCode; s >= 400 {
		return c.explain(&Error{Kind: Foreign, Text: fmt.Sprintf("it answers with status %d", s)})
	}
	return nil
}

// reason is what an answer that says no gives for it, and whether it gives
// anything.
func reason(answer []byte) (text string, ok bool) {
	var why struct{ Error string }
	if json.Unmarshal(answer, &why) != nil || why.Error == "" {
		return "", false
	}
	return Clean(why.Error, maxSaid+len(more)), true
}

// maxPath bounds the path of a file, in bytes.
const maxPath = 1 << 10

// Selected asks for the file that is selected, by its path, as people may read
// it; it is empty if none is.
func (c *Client) Selected(ctx context.Context) (path string, err error) {
	var job struct {
		Job struct {
			File struct{ Path string }
		}
	}
	err = c.call(ctx, http.MethodGet, "/api/job", nil, &job)
	return Clean(job.Job.File.Path, maxPath), c.explain(err)
}
