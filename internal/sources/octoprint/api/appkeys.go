package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
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
	ErrDenied    = errors.New("nobody allowed the request for a key in OctoPrint: it was refused, or it timed out")
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
		return KeyRequest{}, ErrNoAppKeys
	}
	if err != nil {
		return KeyRequest{}, c.explain(err)
	}
	body := map[string]string{"app": app}
	if user != "" {
		body["user"] = user
	}
	status, answer, err := c.send(ctx, http.MethodPost, base+"/plugin/appkeys/request", body)
	if err != nil {
		return KeyRequest{}, c.explain(err)
	}
	var given struct {
		Token  string `json:"app_token"`
		Dialog string `json:"auth_dialog"`
	}
	if status != http.StatusCreated || json.Unmarshal(answer, &given) != nil || given.Token == "" {
		return KeyRequest{}, c.explain(&Error{Kind: Foreign, Text: fmt.Sprintf("it answers a request for a key with status %d", status)})
	}
	// Its own idea of its address may be that of behind a proxy.
	return KeyRequest{Dialog: given.Dialog, poll: base + "/plugin/appkeys/request/" + url.PathEscape(given.Token)}, nil
}

// AwaitKey waits for the decision and returns the key, which OctoPrint gives
// only once.
func (c *Client) AwaitKey(ctx context.Context, r KeyRequest) (string, error) {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		status, answer, err := c.send(ctx, http.MethodGet, r.poll, nil)
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case err != nil && (KindOf(err) == Away || KindOf(err) == Busy): // may pass; what is lost meanwhile is not found later
		case err != nil:
			return "", c.explain(err)
		case status == http.StatusNotFound:
			return "", ErrDenied
		case status == http.StatusOK:
			var given struct {
				Key string `json:"api_key"`
			}
			if json.Unmarshal(answer, &given) != nil || given.Key == "" {
				return "", c.explain(&Error{Kind: Foreign, Text: "its answer holds no key"})
			}
			return given.Key, nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-ticker.C:
		}
	}
}
