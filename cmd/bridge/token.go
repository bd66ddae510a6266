package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"event2mqtt/internal/apiclient"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/control"
)

// tokenName is the file of the token in a state folder, unless another is named.
const tokenName = "http_token"

// madeToken is what the command has done.
type madeToken struct {
	File   string `json:"file"`
	Made   bool   `json:"made"`
	Config string `json:"config"`
	// InUse is where the running program has its http.token from; empty if it has
	// none, or cannot be asked.
	InUse string `json:"in_use,omitempty"`
}

// tokenCommand makes the token that lets programs elsewhere use the API.
func tokenCommand(f *flags) *cobra.Command {
	a := &asking{flags: f}
	cmd := &cobra.Command{
		Use:   "token [FILE]",
		Short: "Make a token for programs on other machines, and say where to put it",
		Long: `Makes a token in a file that its owner alone can read, and prints the lines that
the configuration needs. Left out, FILE is http_token in the state folder. A file
that is there is kept. The token itself is not printed.

Programs on this machine need none. Everybody who has the token may do all that
the page and the API offer.`,
		Example: "  event2mqtt token\n  event2mqtt token /etc/event2mqtt/http_token",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("there is more than one FILE: %s", strings.Join(args, " "))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			path := strings.Join(args, "")
			dir, err := stateDir(f.stateDir, io.Discard, path == "")
			if path == "" {
				if err != nil {
					return fmt.Errorf("%w; or name a file: %s token FILE", err, cmd.Root().Name())
				}
				path = filepath.Join(dir, tokenName)
			}
			if path, err = filepath.Abs(path); err != nil {
				return fmt.Errorf("find the file: %w", err)
			}
			made := madeToken{File: path, Config: fmt.Sprintf("http: {token: {file: %s}}", quoteYAML(path))}
			if made.Made, err = makeToken(path); err != nil {
				return err
			}
			made.InUse = tokenInUse(cmd, dir)
			if a.json {
				return printJSON(cmd.OutOrStdout(), made)
			}
			return made.print(cmd)
		},
	}
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
	return cmd
}

// quoteYAML is a path as YAML has it in braces.
func quoteYAML(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-", r))
	}) {
		return "'" + strings.ReplaceAll(path, "'", "''") + "'"
	}
	return path
}

// makeToken writes a token into a file, which belongs to the owner of its folder,
// unless there is one. What is there is never replaced, be it a link.
func makeToken(path string) (made bool, err error) {
	folder, err := file.Stat(filepath.Dir(path))
	if err != nil {
		return false, fmt.Errorf("there is no folder for %s; make it first (%w)", path, err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return false, checkToken(path)
	}
	if err != nil {
		return false, fmt.Errorf("write the token: %w", err)
	}
	if _, err = f.WriteString(rand.Text() + "\n"); err == nil {
		err = giveTo(f, folder)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return false, fmt.Errorf("write the token: %w", errors.Join(err, os.Remove(path)))
	}
	return true, nil
}

// checkToken tells what is wrong with a file that is there already.
func checkToken(path string) error {
	text, err := file.Read(path, file.MaxSecret)
	if err != nil {
		return fmt.Errorf("read the token: %w", err)
	}
	const least = 16
	if token := strings.TrimSpace(string(text)); len(token) < least || strings.ContainsAny(token, " \t\r\n") {
		return fmt.Errorf("%s is there already, and holds no token of at least %d characters; name another file", path, least)
	}
	if info, err := file.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others can read %s; chmod 600 it, or delete it and do this again: its token may be known", path)
	}
	return nil
}

// tokenInUse is where the program that runs with a state folder has its token from.
func tokenInUse(cmd *cobra.Command, dir string) string {
	c, err := control.Read(dir)
	if err != nil {
		return ""
	}
	client := apiclient.New(apiclient.Target{URL: c.URL, Token: c.Token})
	defer client.Close()
	var answer struct {
		Options []struct{ Key, Value, Origin string }
	}
	if client.Get(cmd.Context(), "config", &answer) != nil {
		return ""
	}
	for _, o := range answer.Options {
		if o.Key == "http.token" && o.Value != "" {
			return o.Origin
		}
	}
	return ""
}

func (m *madeToken) print(cmd *cobra.Command) error {
	name, what := cmd.Root().Name(), "A token is in %s, which its owner alone can read.\n"
	if !m.Made {
		what = "%s holds a token already; it is kept.\n"
	}
	text := fmt.Sprintf(what, shown(m.File))
	if m.InUse != "" {
		text += "The running program has an http.token (" + shown(m.InUse) + ").\n"
	}
	text += "\nPut this into the configuration, or set E2M_HTTP_TOKEN to what the file holds:\n\n  " + shown(m.Config) + "\n\n" +
		"For other machines to reach it, http.listen has to be more than localhost, such as 0.0.0.0:8127.\n" +
		"Copy the file there, and try it:\n\n  " + name + " status --url http://ADDRESS:8127 --token-file FILE\n"
	_, err := fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}
