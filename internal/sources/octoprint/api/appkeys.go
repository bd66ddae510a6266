package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// This file asks OctoPrint for a key: its bundled plugin appkeys shows people a
// dialog, and gives the key when they say yes.

// pollEvery is how often a request for a key is looked after. OctoPrint drops
// one that nobody looks after for some seconds.
const pollEvery = 2 * time.Second

// Errors of asking for a key.
var (
	ErrNoAppKeys = errors.New("this OctoPrint does not give keys away: its plugin Application Keys is switched off; make a key there under User Settings, and set api_key")
	ErrDenied    = errors.New("nobody allowed the request for a key in OctoPrint: it was refused, or it timed out, or OctoPrint was restarted")
)

// KeyRequest is a request for a key that waits for a decision.
type KeyRequest struct {
	// Dialog is the address where people decide, beside the dialog that pops up
	// in each page of OctoPrint that is open.
	Dialog string
	poll   string
}

// RequestKey asks for a key for an app. user may be empty; it is whose key it
// should be.
func (c *Client) RequestKey(ctx context.Context, app, user string) (KeyRequest, error) {
	base := c.options.URL.String()
	status, _, err := c.send(ctx, http.MethodGet, base+"/plugin/appkeys/probe", nil)
	if err == nil && status == http.StatusNotFound {
		if err := c.isOctoPrint(ctx); err != nil {
			return KeyRequest{}, c.explain(err)
		}
		return KeyRequest{}, ErrNoAppKeys
	}
	if err != nil {
		return KeyRequest{}, c.explain(unasked(err))
	}
	body := map[string]string{"app": app}
	if user != "" {
		body["user"] = user
	}
	status, answer, err := c.send(ctx, http.MethodPost, base+"/plugin/appkeys/request", body)
	if err != nil {
		return KeyRequest{}, c.explain(unasked(err))
	}
	var given struct {
		Token  string `json:"app_token"`
		Dialog string `json:"auth_dialog"`
	}
	if status != http.StatusCreated || json.Unmarshal(answer, &given) != nil || given.Token == "" {
		return KeyRequest{}, c.explain(&Error{Kind: Foreign, Text: fmt.Sprintf("it answers a request for a key with status %d", status)})
	}
	// Its own idea of its address may be that of behind a proxy.
	return KeyRequest{Dialog: Clean(given.Dialog, maxError), poll: base + "/plugin/appkeys/request/" + url.PathEscape(given.Token)}, nil
}

// isOctoPrint asks for what only OctoPrint has, and needs no key.
func (c *Client) isOctoPrint(ctx context.Context) error {
	var info struct {
		WebSocket *bool `json:"websocket"`
	}
	err := c.call(ctx, http.MethodGet, "/sockjs/info", nil, &info)
	if err == nil && info.WebSocket == nil {
		err = &Error{Kind: Foreign, Text: "it has no push API"}
	}
	return unasked(err)
}

// unasked is an error of what needs no key: one is not refused then.
func unasked(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Kind == Key {
		return &Error{Kind: Foreign, Text: "it refuses a question that needs no key with status " + e.Text}
	}
	return err
}

// AwaitKey waits for the decision and returns the key, which OctoPrint gives
// only once. When ctx ends the error is that of ctx, and that of OctoPrint if it
// could not be reached at the end.
func (c *Client) AwaitKey(ctx context.Context, r KeyRequest) (string, error) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	var last error
	for {
		status, answer, err := c.send(ctx, http.MethodGet, r.poll, nil)
		if ctx.Err() == nil {
			last = c.explain(err)
		}
		switch {
		case ctx.Err() != nil:
			return "", errors.Join(ctx.Err(), last)
		case err != nil && (KindOf(err) == Away || KindOf(err) == Busy): // may pass; what is lost meanwhile is not found later
		case err != nil:
			return "", c.explain(unasked(err))
		case status == http.StatusNotFound:
			return "", ErrDenied
		case status == http.StatusOK:
			var given struct {
				Key string `json:"api_key"`
			}
			if json.Unmarshal(answer, &given) != nil || !isKey(given.Key) {
				return "", c.explain(&Error{Kind: Foreign, Text: "its answer holds no key"})
			}
			return given.Key, nil
		}
		select {
		case <-ctx.Done():
			return "", errors.Join(ctx.Err(), last)
		case <-ticker.C:
		}
	}
}

// isKey reports whether a text can be a key: OctoPrint's have 32 or 43
// characters without spaces.
func isKey(text string) bool {
	const most = 256
	return text != "" && len(text) <= most && strings.Trim(text, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_.") == ""
}
