// Package api speaks to OctoPrint over HTTP, as its docs/api has it: it logs in,
// asks for the version, for a file's metadata, for pictures and for a key, gives
// commands, and opens the WebSocket of the push API. It says in words what is
// wrong with an answer. It
// does not know what the push API sends, nor keep a connection alive.
package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// maxAnswer bounds the body of an answer. The record of a user with all
	// permissions has some 10 KB, the metadata of a file as much.
	maxAnswer = 1 << 20
	// DefaultTimeout bounds one request.
	DefaultTimeout = 10 * time.Second
)

// Options say where OctoPrint is, and what it takes to get there.
type Options struct {
	// URL is OctoPrint's address, as ParseURL returns it.
	URL *url.URL
	// Key is the API key; empty only to ask for one.
	Key string
	// Username and Password are for a proxy in front that asks for them.
	Username, Password string
	// Header is sent with each request, for a proxy in front.
	Header http.Header
	// TLS is for https; nil is Go's default.
	TLS *tls.Config
	// Timeout bounds one request. Zero is DefaultTimeout.
	Timeout time.Duration
}

// Client speaks to one OctoPrint. It is safe for concurrent use.
type Client struct {
	options Options
	http    *http.Client
}

// New makes a client. It opens no connection.
func New(o Options) *Client {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: o.TLS, TLSHandshakeTimeout: o.Timeout,
		MaxIdleConns: 1, IdleConnTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}
	// A redirect is not followed: it would take the key along.
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{o, &http.Client{Transport: transport, Timeout: o.Timeout, CheckRedirect: stay}}
}

// Close ends the connections that are idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// ParseURL reads OctoPrint's address, such as http://octopi.local/prefix. What
// it returns ends without a slash, and holds neither user nor query.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil: // it would repeat the URL, a password included
		return nil, errors.New("not a URL; write for example http://octopi.local")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%q must begin with http:// or https://; write for example http://octopi.local", u.Redacted())
	case u.Hostname() == "":
		return nil, fmt.Errorf("%q names no host; write for example http://octopi.local", u.Redacted())
	case u.User != nil:
		return nil, fmt.Errorf("%q holds a user; set username and password instead, which are never printed", u.Redacted())
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q has a part behind ? or #; leave it out", u.Redacted())
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}, nil
}

// Server is the host and the port of an address, however it is written: in small
// letters, and with the port that its scheme has.
func Server(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), port)
}

// Session is a login, to be shown to the WebSocket.
type Session struct {
	Name string // of the user whom the key is of, as people may read it
	auth string
	// roles are what the user may do, in OctoPrint's own words; nil if it does
	// not say, or all is allowed.
	roles []string
}

// Lacks reports whether the user is known not to have a permission.
func (s Session) Lacks(p Permission) bool {
	return s.roles != nil && !slices.Contains(s.roles, strings.ToLower(string(p)))
}

// Auth is what the push API takes for authentication.
func (s Session) Auth() string { return s.auth }

// Login logs in with the API key.
func (c *Client) Login(ctx context.Context) (s Session, err error) {
	var given struct {
		Name, Session string
		Admin         bool
		Needs         struct{ Role []string }
	}
	err = c.call(ctx, http.MethodPost, "/api/login", map[string]any{"passive": true}, &given)
	switch {
	case err != nil:
	case given.Session == "" || given.Name == "" || strings.Contains(given.Name+given.Session, ":"):
		err = &Error{Kind: Foreign, Text: "the login's answer holds no session"}
	case len(given.Name)+len(given.Session) > maxLogin:
		err = &Error{Kind: Foreign, Text: fmt.Sprintf("the login's answer holds a name and a session of more than %d bytes", maxLogin)}
	}
	if err != nil {
		return Session{}, c.explain(err)
	}
	s = Session{Name: Clean(given.Name, maxSaid), auth: given.Name + ":" + given.Session}
	if !given.Admin {
		s.roles = given.Needs.Role
	}
	return s, nil
}

// Version is what OctoPrint says of itself.
type Version struct {
	Server string `json:"server"` // such as 1.11.8
}

// Version asks for the version.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	err = c.call(ctx, http.MethodGet, "/api/version", nil, &v)
	if err == nil && v.Server == "" {
		err = &Error{Kind: Foreign, Text: "its answer holds no version"}
	}
	v.Server = Clean(v.Server, maxShort)
	return v, c.explain(err)
}

// Name asks for the name that people gave this OctoPrint; it is empty where
// there is none, or the key's user may not see it.
func (c *Client) Name(ctx context.Context) string {
	var settings struct {
		Appearance struct{ Name string }
	}
	if c.call(ctx, http.MethodGet, "/api/settings", nil, &settings) != nil {
		return ""
	}
	return Clean(settings.Appearance.Name, maxSaid)
}

// File asks for the metadata of a file, such as its analysis and its prints.
// The answer is JSON as OctoPrint wrote it.
func (c *Client) File(ctx context.Context, origin, path string) (json.RawMessage, error) {
	var raw json.RawMessage
	escaped := (&url.URL{Path: "/" + origin + "/" + path}).EscapedPath()
	err := c.call(ctx, http.MethodGet, "/api/files"+escaped, nil, &raw)
	return raw, c.explain(err)
}

// Files asks for all files, with their metadata. The answer is JSON as OctoPrint
// wrote it; one that is too large is an error.
func (c *Client) Files(ctx context.Context) (json.RawMessage, error) {
	var raw json.RawMessage
	err := c.call(ctx, http.MethodGet, "/api/files?recursive=true", nil, &raw)
	return raw, c.explain(err)
}

// Dial opens the WebSocket of the push API. Nothing was authenticated on it.
func (c *Client) Dial(ctx context.Context) (*websocket.Conn, error) {
	dialer := websocket.Dialer{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: c.options.TLS, HandshakeTimeout: c.options.Timeout,
		ReadBufferSize: 4 << 10, WriteBufferSize: 1 << 10,
	}
	u := *c.options.URL
	u.Scheme = map[string]string{"http": "ws", "https": "wss"}[u.Scheme]
	u.Path += "/sockjs/websocket" // JSON in each frame, without SockJS's own framing
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	conn, response, err := dialer.DialContext(ctx, u.String(), c.header()) // no Origin: another than its own OctoPrint refuses
	if err == nil {
		return conn, nil
	}
	if response != nil {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		_ = response.Body.Close()
		if response.StatusCode != http.StatusSwitchingProtocols {
			err = refusal(response, body)
			if e, ok := err.(*Error); ok && e.Kind != Away && e.Kind != Proxy {
				err = &Error{Kind: Foreign, Text: fmt.Sprintf("it answers HTTP, and refuses the WebSocket %s (status %d); a proxy in front must pass WebSockets on", u.Path, response.StatusCode)}
			}
		}
	}
	return nil, c.explain(err)
}

// header is what each request carries.
func (c *Client) header() http.Header {
	h := c.options.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	if c.options.Key != "" {
		h.Set("X-Api-Key", c.options.Key)
	}
	if c.options.Username != "" {
		r := http.Request{Header: h}
		r.SetBasicAuth(c.options.Username, c.options.Password)
	}
	return h
}

// call sends a request and reads its answer, JSON, into into.
func (c *Client) call(ctx context.Context, method, path string, body, into any) error {
	status, answer, err := c.send(ctx, method, c.options.URL.String()+path, body)
	switch {
	case err != nil:
		return err
	case status != http.StatusOK:
		return &Error{Kind: Foreign, Text: fmt.Sprintf("it answers %s with status %d", path, status)}
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return &Error{Kind: Foreign, Text: "its answer is not JSON"}
	}
	return nil
}

// send sends a request. Statuses that mean the same whatever was asked are
// errors.
func (c *Client) send(ctx context.Context, method, address string, body any) (status int, answer []byte, err error) {
	response, answer, err := c.exchange(ctx, method, address, body)
	if err != nil {
		return 0, nil, err
	}
	return response.StatusCode, answer, refusal(response, answer)
}

// exchange sends a request and reads the answer, whatever its status is. The
// response's body is closed.
func (c *Client) exchange(ctx context.Context, method, address string, body any) (response *http.Response, answer []byte, err error) {
	response, err = c.do(ctx, method, address, body)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, nil, err
	case len(answer) > maxAnswer:
		return nil, nil, &Error{Kind: Foreign, Text: fmt.Sprintf("its answer has more than %d bytes", maxAnswer)}
	}
	return response, answer, nil
}

// do sends a request. Whoever calls it closes the response's body.
func (c *Client) do(ctx context.Context, method, address string, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("write the request: %w", err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, address, content)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	request.Header = c.header()
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return c.http.Do(request)
}
