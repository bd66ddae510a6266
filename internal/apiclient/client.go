// Package apiclient asks a running event2mqtt over its HTTP API, for the
// commands of the command line: requests, streams, and errors that tell apart
// what a person can do about them. How the program is found, and what an answer
// means, is the command's business.
package apiclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// Bounds of answers.
const (
	maxAnswer = 32 << 20 // bytes: 2,000 topics with their values, all of them escaped
	maxDetail = 4 << 10  // bytes of an error that are looked at
	// dialPatience is how long a connection may take to be made, and headerPatience
	// how long the program may take to begin an answer, beside what a request waits for.
	dialPatience   = 5 * time.Second
	headerPatience = 30 * time.Second
)

// prefix begins all paths of the API. It is not package api's, which would link
// the server into whatever asks.
const prefix = "/api/v1/"

// Errors that people can do something about.
var (
	// ErrNotRunning tells that nothing answers at the address.
	ErrNotRunning = errors.New("nothing answers")
	// ErrNoAPI tells that event2mqtt answers, and does not have what is asked for.
	ErrNoAPI = errors.New("the event2mqtt that answers has no such API; it is an older version: update it, and restart it")
	// ErrOther tells that something answers that is not event2mqtt.
	ErrOther = errors.New("what answers is not event2mqtt")
)

// Error is an answer that refuses a request (RFC 9457).
type Error struct {
	Status int
	// Detail says what is wrong, and what would be right. It comes from outside.
	Detail string
}

func (e *Error) Error() string { return e.Detail }

// Target is a program that is asked.
type Target struct {
	URL   string // scheme, host, and the path that a proxy has put it under
	Token string // empty is none
}

// Client asks one program. Make it with New. It is safe for concurrent use.
type Client struct {
	target Target
	http   *http.Client
}

// ParseURL reads an address as people write it: printer.lan:8127 is that of HTTP.
func ParseURL(text string) (string, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return "", fmt.Errorf("%q is not an address; write for example http://printer.lan:8127", text)
	case u.User != nil:
		return "", errors.New("an address holds no token, user or password; give the token in a file")
	case u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("%q has something behind its path; write for example http://printer.lan:8127", text)
	}
	return strings.TrimSuffix(u.Scheme+"://"+u.Host+u.EscapedPath(), "/"), nil
}

// New returns a client. Close it.
func New(t Target) *Client {
	return &Client{t, &http.Client{
		// No proxy of the environment is to see the token.
		Transport: &http.Transport{
			DialContext: (&net.Dialer{Timeout: dialPatience}).DialContext, TLSHandshakeTimeout: dialPatience,
			MaxIdleConns: 2, IdleConnTimeout: time.Minute, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// URL is the address of the program.
func (c *Client) URL() string { return c.target.URL }

// HasToken reports whether requests carry a token.
func (c *Client) HasToken() bool { return c.target.Token != "" }

// Close gives up idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Do sends a request to a path below /api/v1/, such as events?limit=1. body is
// sent as JSON unless it is nil, and the answer decoded into answer unless that
// is nil. wait is how long the program was asked to wait before it answers.
func (c *Client) Do(ctx context.Context, method, path string, body, answer any, wait time.Duration) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, headerPatience+wait)
	defer cancel()
	response, err := c.send(ctx, method, path, body)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return 0, fmt.Errorf("read the answer of %s: %w", c.target.URL, err)
	case len(text) > maxAnswer:
		return 0, fmt.Errorf("read the answer of %s: it has more than %d bytes", c.target.URL, maxAnswer)
	case answer == nil:
		return response.StatusCode, nil
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return 0, fmt.Errorf("%s: %w", c.target.URL, ErrOther)
	}
	return response.StatusCode, nil
}

// Get decodes the answer to a GET.
func (c *Client) Get(ctx context.Context, path string, answer any) error {
	_, err := c.Do(ctx, http.MethodGet, path, nil, answer, 0)
	return err
}

// send returns the answer to a request, if that is one of success and the API's.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	response, err := c.round(ctx, method, prefix+path, body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= 200 && response.StatusCode < 300 {
		return response, nil
	}
	defer response.Body.Close()
	return nil, c.refused(ctx, response)
}

// round sends a request to any path.
func (c *Client) round(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("write the request: %w", err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.target.URL+path, content)
	if err != nil {
		return nil, fmt.Errorf("write the request: %w", err)
	}
	if c.target.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.target.Token)
	}
	request.Header.Set("Accept", "application/json, application/x-ndjson")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.http.Do(request)
	if err == nil {
		return response, nil
	}
	var network *url.Error
	if errors.As(err, &network) {
		err = network.Err // its text would repeat the address
	}
	if _, dial := errors.AsType[*net.OpError](err); dial || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
		return nil, fmt.Errorf("%w at %s (%w)", ErrNotRunning, c.target.URL, err)
	}
	return nil, fmt.Errorf("ask %s: %w", c.target.URL, err)
}

// refused is the error of an answer that is none of success.
func (c *Client) refused(ctx context.Context, response *http.Response) error {
	if to := response.Header.Get("Location"); to != "" && response.StatusCode/100 == 3 {
		return fmt.Errorf("%s leads on to %.200q; give the address that is meant", c.target.URL, to)
	}
	text, _ := io.ReadAll(io.LimitReader(response.Body, maxDetail))
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	var p struct{ Detail string }
	if kind != "application/problem+json" || json.Unmarshal(text, &p) != nil || p.Detail == "" {
		if c.Healthy(ctx) != nil {
			return fmt.Errorf("%s: %w: it says %s", c.target.URL, ErrOther, response.Status)
		}
		if response.StatusCode == http.StatusNotFound {
			return fmt.Errorf("%s: %w", c.target.URL, ErrNoAPI)
		}
		return &Error{response.StatusCode, fmt.Sprintf("event2mqtt answers %s: %s", response.Status, bytes.TrimSpace(text))}
	}
	if response.StatusCode == http.StatusNotFound && !c.hasAPI(ctx) {
		return fmt.Errorf("%s: %w", c.target.URL, ErrNoAPI)
	}
	return &Error{response.StatusCode, p.Detail}
}

// hasAPI reports whether what answers describes its API: versions without one
// answer 404 as this one does for what is not there.
func (c *Client) hasAPI(ctx context.Context) bool {
	response, err := c.round(ctx, http.MethodGet, prefix+"openapi.json", nil)
	if err != nil {
		return true // nobody knows
	}
	_ = response.Body.Close()
	return response.StatusCode != http.StatusNotFound
}

// Healthy returns nil if event2mqtt answers that it lives. It needs no token, and
// sends none.
func (c *Client) Healthy(ctx context.Context) error {
	bare := Client{Target{URL: c.target.URL}, c.http}
	response, err := bare.round(ctx, http.MethodGet, "/healthz", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s/healthz answers %s", c.target.URL, response.Status)
	}
	return nil
}
