package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// This file fetches pictures.

// Snapshot has OctoPrint take a picture with its webcam, of at most so many
// bytes. OctoPrint asks the webcam itself, so it does not matter where that is.
func (c *Client) Snapshot(ctx context.Context, most int64) ([]byte, error) {
	picture, err := c.picture(ctx, "/downloads/camera/current", MayWatch, most)
	switch e, ok := errors.AsType[*statusError](err); {
	case ok && e.status == http.StatusNotFound:
		err = &Error{Kind: Refused, Text: fmt.Sprintf("OctoPrint at %s has no webcam that takes snapshots: set its snapshot URL in OctoPrint, or set snapshot.url", c.options.URL)}
	case ok:
		err = &Error{Kind: Refused, Text: fmt.Sprintf("OctoPrint at %s gets no snapshot from its webcam (status %d): is the webcam on, and its snapshot URL right in OctoPrint?", c.options.URL, e.status)}
	}
	return picture, err
}

// Thumbnail fetches a picture of a file, of at most so many bytes, from where
// the file's metadata say: that is below OctoPrint's own address, or refused.
func (c *Client) Thumbnail(ctx context.Context, at string, most int64) ([]byte, error) {
	u, err := url.Parse(at)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return nil, &Error{Kind: Refused, Text: "the thumbnail of the file is said to be elsewhere than at OctoPrint, and is not fetched"}
	}
	path := "/" + strings.TrimLeft(u.EscapedPath(), "/")
	if strings.Contains("/"+u.Path+"/", "/../") {
		return nil, &Error{Kind: Refused, Text: "the thumbnail of the file is said to be above OctoPrint's address, and is not fetched"}
	}
	if u.RawQuery != "" {
		path += "?" + u.RawQuery
	}
	picture, err := c.picture(ctx, path, "File Download", most)
	if e, ok := errors.AsType[*statusError](err); ok {
		err = &Error{Kind: Refused, Text: fmt.Sprintf("OctoPrint at %s does not give the thumbnail of the file (status %d)", c.options.URL, e.status)}
	}
	return picture, err
}

// statusError is an answer that is no picture and says nothing more.
type statusError struct{ status int }

func (e *statusError) Error() string { return fmt.Sprintf("status %d", e.status) }

// picture fetches a picture from a path at OctoPrint.
func (c *Client) picture(ctx context.Context, path string, may Permission, most int64) ([]byte, error) {
	response, err := c.do(ctx, http.MethodGet, c.options.URL.String()+path, nil)
	if err != nil {
		return nil, c.explain(err)
	}
	defer response.Body.Close()
	switch s := response.StatusCode; {
	case s == http.StatusForbidden:
		return nil, c.refused(response, []byte(`{"error":"403"}`), may) // it comes as a page
	case s == http.StatusUnauthorized, s >= 300 && s < 400, s == http.StatusTooManyRequests:
		return nil, c.explain(refusal(response, nil))
	case s != http.StatusOK:
		return nil, &statusError{s}
	}
	picture, err := readPicture(response, most)
	if err != nil {
		return nil, fmt.Errorf("the picture from OctoPrint at %s: %w", c.options.URL, err)
	}
	return picture, nil
}

// readPicture reads a picture and finds out whether it is one.
func readPicture(response *http.Response, most int64) ([]byte, error) {
	kind, _, err := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch {
	case strings.HasPrefix(kind, "multipart/"):
		return nil, errors.New("it is a stream; give the address of single pictures, which often ends with ?action=snapshot")
	case err != nil, !strings.HasPrefix(kind, "image/"):
		return nil, fmt.Errorf("it is no picture, but %q", Clean(response.Header.Get("Content-Type"), maxShort))
	case response.ContentLength > most:
		return nil, fmt.Errorf("it has %d bytes; snapshot.max_size allows %d", response.ContentLength, most)
	}
	picture, err := io.ReadAll(io.LimitReader(response.Body, most+1))
	switch {
	case err != nil:
		return nil, errors.New(network(err))
	case int64(len(picture)) > most:
		return nil, fmt.Errorf("it has more bytes than the %d that snapshot.max_size allows", most)
	case !strings.HasPrefix(http.DetectContentType(picture), "image/"): // OctoPrint calls all that a webcam sends a JPEG
		return nil, errors.New("it is no picture, though it is called one")
	}
	return picture, nil
}

// Camera is a webcam that is asked without OctoPrint.
type Camera struct {
	at   *url.URL
	http *http.Client
}

// maxRedirects bounds how often a camera may send elsewhere on its own server.
const maxRedirects = 3

// NewCamera makes a camera of the address of its pictures, which may hold a user
// and a password. The error does not repeat it. Nothing that is OctoPrint's is
// sent there.
func NewCamera(text string, timeout time.Duration) (*Camera, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("not the address of a picture; write for example http://192.0.2.7:8080/?action=snapshot")
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: timeout,
		MaxIdleConns: 1, IdleConnTimeout: 10 * time.Second, MaxResponseHeaderBytes: 64 << 10,
	}
	stay := func(next *http.Request, before []*http.Request) error {
		if len(before) > maxRedirects || Server(next.URL) != Server(u) {
			return http.ErrUseLastResponse // what it says is no picture then
		}
		return nil
	}
	return &Camera{u, &http.Client{Transport: transport, Timeout: timeout, CheckRedirect: stay}}, nil
}

// Close ends the connections that are idle.
func (c *Camera) Close() { c.http.CloseIdleConnections() }

// Snapshot takes a picture, of at most so many bytes.
func (c *Camera) Snapshot(ctx context.Context, most int64) ([]byte, error) {
	say := func(format string, args ...any) error {
		return &Error{Kind: Refused, Text: fmt.Sprintf("the webcam at %s ", c.at.Host) + fmt.Sprintf(format, args...)}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.at.String(), nil)
	if err != nil {
		return nil, say("cannot be asked; is snapshot.url right?")
	}
	response, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, say("cannot be reached (%s); is it on, and snapshot.url right?", network(err))
	}
	defer response.Body.Close()
	switch s := response.StatusCode; {
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		return nil, say("asks for a user and a password (status %d); write them into snapshot.url, as http://USER:PASSWORD@HOST", s)
	case s >= 300 && s < 400:
		return nil, say("sends elsewhere, to %s; write that address as snapshot.url", where(response))
	case s != http.StatusOK:
		return nil, say("gives no picture (status %d); is snapshot.url right?", s)
	}
	picture, err := readPicture(response, most)
	if err != nil {
		return nil, say("gives no picture: %s", err)
	}
	return picture, nil
}
