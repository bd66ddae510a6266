package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"event2mqtt/internal/refused"
	"event2mqtt/internal/sources/octoprint/leftover"
)

// Paths of what is asked for.
const (
	ReloadPath  = "/api/v1/reload"
	RefusedPath = "/api/v1/refused"
	// LeftoverPath clears what a plugin of OctoPrint has left at the broker.
	LeftoverPath = "/api/v1/octoprint-homeassistant"
	ReadyPath    = "/readyz" // answers 503 if a part has failed
)

// Outcome is how a reload went.
type Outcome struct {
	OK      bool      `json:"ok"`
	Time    time.Time `json:"time"`
	TookMS  float64   `json:"took_ms"`
	Changed []string  `json:"changed,omitempty"`
	// Problems are those of check, or why what was good could not be started.
	Problems []string `json:"problems,omitempty"`
}

// Reload has the program that uses a state folder reload its configuration,
// and waits for the outcome.
func Reload(ctx context.Context, stateDir string) (o Outcome, err error) {
	err = ask(ctx, stateDir, http.MethodPost, ReloadPath, nil, &o)
	return o, err
}

// RefusedList is the answer to GET: the events, oldest first, without their
// payloads, and what is wrong with files that hold none.
type RefusedList struct {
	Events   []refused.Event `json:"events"`
	Problems []string        `json:"problems,omitempty"`
}

// RefusedRequest asks for something to be done with refused events.
type RefusedRequest struct {
	Do  string   `json:"do"`            // send or drop
	IDs []string `json:"ids,omitempty"` // which; or
	All bool     `json:"all,omitempty"`
}

// RefusedOutcome says with which events it was done, and why not with others.
type RefusedOutcome struct {
	Done     []string `json:"done"`
	Problems []string `json:"problems,omitempty"`
}

// Refused lists the refused events of the program that uses a state folder.
func Refused(ctx context.Context, stateDir string) (list RefusedList, err error) {
	err = ask(ctx, stateDir, http.MethodGet, RefusedPath, nil, &list)
	return list, err
}

// DoRefused has the program that uses a state folder do something with refused
// events.
func DoRefused(ctx context.Context, stateDir string, request RefusedRequest) (o RefusedOutcome, err error) {
	err = ask(ctx, stateDir, http.MethodPost, RefusedPath, request, &o)
	return o, err
}

// ClearLeftover has the program that uses a state folder clear at its broker what
// the plugin OctoPrint-HomeAssistant has left there. What went wrong is the
// report's problem, as far as the program has answered.
func ClearLeftover(ctx context.Context, stateDir string, r leftover.Request) (report leftover.Report, err error) {
	err = ask(ctx, stateDir, http.MethodPost, LeftoverPath, r, &report)
	return report, err
}

// Part is how one part of a running program is.
type Part struct {
	Name   string `json:"name"` // such as source octoprint
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Parts asks the program that uses a state folder how its parts are.
func Parts(ctx context.Context, stateDir string) ([]Part, error) {
	var answer struct {
		Components []Part `json:"components"`
	}
	err := ask(ctx, stateDir, http.MethodGet, ReadyPath, nil, &answer)
	return answer.Components, err
}

// ask sends a request, with a JSON body unless that is nil, to the program
// that uses a state folder, and decodes the answer: one of 200 or 422, or of
// 503 from ReadyPath.
func ask(ctx context.Context, stateDir, method, path string, body, answer any) error {
	c, err := Read(stateDir)
	if err != nil {
		return err
	}
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("ask the running event2mqtt: %w", err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.URL+path, content)
	if err != nil {
		return fmt.Errorf("find the running event2mqtt: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+c.Token)
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy is to see the token
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("%w (%w)", ErrNotRunning, err)
	}
	defer response.Body.Close()
	const most = 8 << 20
	text, err := io.ReadAll(io.LimitReader(response.Body, most))
	status := response.StatusCode
	if err == nil && (status == http.StatusOK || status == http.StatusUnprocessableEntity || status == http.StatusServiceUnavailable && path == ReadyPath) {
		err = json.Unmarshal(text, answer)
	} else if err == nil && (status == http.StatusUnauthorized || status == http.StatusForbidden) {
		err = fmt.Errorf("%w: %s", ErrRefused, bytes.TrimSpace(text))
	} else if err == nil {
		err = fmt.Errorf("event2mqtt answers %s: %s", response.Status, bytes.TrimSpace(text))
	}
	return err
}
