package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"event2mqtt/internal/apiclient"
	"event2mqtt/internal/bridge"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/control"
)

// This file is how commands reach the running program: on this machine by its
// state folder, so that nobody has to type an address or a token, and elsewhere by
// --url.

// tokenVariable holds the token for --url. It is the one that sets http.token, as
// any other with this prefix would be an option that does not exist.
const tokenVariable = "E2M_HTTP_TOKEN"

// defaultListen is where HTTP is served unless the configuration says otherwise.
const defaultListen = "localhost:8127"

// asking is how one command asks, and how it shows the answer.
type asking struct {
	flags     *flags
	url       string
	tokenFile string
	json      bool
}

// command makes a command that asks the running program.
func (a *asking) command(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringVar(&a.url, "url", "", "ask the program at this address, such as http://printer.lan:8127, instead of the one on this machine")
	cmd.Flags().StringVar(&a.tokenFile, "token-file", "", "file with the http.token of the program at --url; left out, it is $"+tokenVariable)
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
	_ = cmd.RegisterFlagCompletionFunc("url", cobra.NoFileCompletions) // fails only for flags that do not exist
	if do := cmd.RunE; do != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error { return harmlessly(a.explain(do(cmd, args))) }
	}
	return cmd
}

// client finds the program.
func (a *asking) client(cmd *cobra.Command) (*apiclient.Client, error) {
	t, err := a.target(cmd.Context(), cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	return apiclient.New(t), nil
}

// target finds where the program is reached, and says what is not obvious.
func (a *asking) target(ctx context.Context, says io.Writer) (t apiclient.Target, err error) {
	if a.url != "" {
		if t.URL, err = apiclient.ParseURL(a.url); err == nil {
			t.Token, err = a.token()
		}
		if err != nil {
			return t, misused("%w", err)
		}
		return t, nil
	}
	if a.tokenFile != "" {
		return t, misused("--token-file is for the program at --url; the one on this machine needs none")
	}
	dir, err := stateDir(a.flags.stateDir, says, false)
	if err == nil {
		var c control.Content
		if c, err = control.Read(dir); err == nil {
			return apiclient.Target{URL: c.URL, Token: c.Token}, nil
		}
		if errors.Is(err, control.ErrNotRunning) {
			return t, &failure{exitNotRunning, fmt.Errorf("no event2mqtt runs with the state folder %s; start it, or choose another folder with --state-dir, or a program elsewhere with --url", dir)}
		}
	}
	// What may not be looked into, or is not there, is no reason to give up: a
	// program on this machine needs no token.
	none, noFolder := errors.AsType[*noStateDir](err)
	locked := errors.Is(err, fs.ErrPermission) || noFolder && none.locked
	if named, _ := namedStateDir(a.flags.stateDir); named != "" {
		if locked {
			err = &failure{exitRefused, fmt.Errorf("%w; or ask as root, with sudo, or by the program's address with --url, and its http.token with --token-file if it is on another machine", err)}
		}
		return t, err
	}
	t.URL = "http://" + localAddress(a.flags)
	quick, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c := apiclient.New(t)
	defer c.Close()
	if c.Healthy(quick) == nil {
		fmt.Fprintf(says, "using the event2mqtt at %s\n", t.URL)
		return t, nil
	}
	if locked {
		return t, &failure{exitRefused, fmt.Errorf("%w; or name the program's address with --url, and its http.token with --token-file if it is on another machine (nothing answers at %s)", err, t.URL)}
	}
	return t, &failure{exitNotRunning, fmt.Errorf("no event2mqtt runs here: nothing answers at %s, and %w; a program elsewhere is named with --url", t.URL, err)}
}

// token is what goes with --url; empty is none.
func (a *asking) token() (string, error) {
	if a.tokenFile == "" {
		return strings.TrimSpace(os.Getenv(tokenVariable)), nil
	}
	text, err := file.Read(a.tokenFile, file.MaxSecret)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("--token-file: %s holds no token; it is one line without spaces", a.tokenFile)
	}
	return token, nil
}

// localAddress is where the program on this machine most likely serves HTTP: as
// the configuration says that is named, else the environment, else by default.
func localAddress(f *flags) string {
	address := os.Getenv("E2M_HTTP_LISTEN")
	if f.config != "" || len(f.set) > 0 {
		if plan, err := bridge.Load(f.config, os.Environ(), filepath.Join(os.TempDir(), "event2mqtt-none"), f.set...); err == nil {
			address = plan.HTTP.Listen
		}
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return defaultListen
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// explain gives an error the exit status that it has, and says what to do.
func (a *asking) explain(err error) error {
	if err == nil {
		return nil
	}
	if _, known := errors.AsType[*failure](err); known {
		return err
	}
	if errors.Is(err, apiclient.ErrNotRunning) {
		if a.url == "" {
			return &failure{exitNotRunning, fmt.Errorf("%w; it does not run any more: start it, or choose another state folder with --state-dir", err)}
		}
		return &failure{exitNotRunning, fmt.Errorf("%w; does event2mqtt run there, and does its http.listen accept connections from here?", err)}
	}
	e, ok := errors.AsType[*apiclient.Error](err)
	if !ok {
		return err
	}
	said := errors.New(e.Detail)
	switch {
	case e.Status == http.StatusUnauthorized && a.tokenFile != "":
		return &failure{exitRefused, fmt.Errorf("%w; look into %s", said, a.tokenFile)}
	case e.Status == http.StatusUnauthorized && a.url != "" && os.Getenv(tokenVariable) == "":
		return &failure{exitRefused, fmt.Errorf("%w; name a file that holds it with --token-file, or put it into $%s", said, tokenVariable)}
	case e.Status == http.StatusUnauthorized && a.url != "":
		return &failure{exitRefused, fmt.Errorf("%w; look at $%s", said, tokenVariable)}
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden:
		return &failure{exitRefused, said}
	case e.Status == http.StatusTooManyRequests && strings.Contains(e.Detail, "token"):
		return &failure{exitRefused, said}
	case e.Status == http.StatusUnprocessableEntity:
		return &failure{exitUsage, said}
	}
	return said
}

// harmlessError is an error whose text steers no terminal, whoever said it.
type harmlessError struct{ error }

func (e harmlessError) Error() string { return shownLines(e.error.Error()) }
func (e harmlessError) Unwrap() error { return e.error }

func harmlessly(err error) error {
	if err == nil {
		return nil
	}
	return harmlessError{err}
}

// printJSON prints an answer as JSON, as the program gave it.
func printJSON(w io.Writer, answer any) error {
	text, err := json.MarshalIndent(answer, "", "  ")
	if err == nil {
		_, err = fmt.Fprintf(w, "%s\n", shownJSON(text))
	}
	return err
}

// with is a path with parameters, of which those that are empty are left out.
func with(path string, parameters url.Values) string {
	for name, values := range parameters {
		if len(values) == 0 || len(values) == 1 && values[0] == "" {
			delete(parameters, name)
		}
	}
	if len(parameters) == 0 {
		return path
	}
	return path + "?" + parameters.Encode()
}
