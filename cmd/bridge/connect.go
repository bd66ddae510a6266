package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"event2mqtt/internal/config"
	"event2mqtt/internal/config/edit"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/sources/octoprint"
	"event2mqtt/internal/sources/octoprint/api"
)

// connectPatience is how long a source may take to connect once the running
// program has applied it.
const connectPatience = 20 * time.Second

// compatPlugin is the value of --compat.
const compatPlugin = "octoprint-mqtt"

// connectCommand adds a source to the configuration, and gets what that takes.
func connectCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{Use: "connect", Short: "Connect to a printer: get a key, and add the source to the configuration"}
	cmd.AddCommand(connectOctoPrint(f))
	return group(cmd)
}

func connectOctoPrint(f *flags) *cobra.Command {
	c := octoPrintSetup{flags: f}
	var print, renew bool
	cmd := &cobra.Command{
		Use:   "octoprint URL",
		Short: "Ask OctoPrint for a key, and add it as a source",
		Long: `Asks OctoPrint for an application key: its page shows a dialog, and you allow it
there. The key goes into a file beside the configuration, such as octoprint.key,
which its owner alone can read, and a source that names it into the
configuration; your comments stay. The result is checked before it takes the
place of the file, and an event2mqtt that runs with it applies it at once.

Without --config the configuration is that of the event2mqtt that runs, or
/etc/event2mqtt/config.yaml if there is that folder. A file that is not there is
made. With --print nothing is written: the source is printed, with its key in it.

Home Assistant must be able to tell the events of two devices apart. Where it
could not, publish.event_topic becomes "{base}/{source}/event/{event}" and it says
which topics change by that; one that is configured already stays, and if it does
not tell them apart, nothing is changed.

Nothing at OctoPrint is changed but the key, which you can remove there under
Settings, Application Keys. OctoPrint has one key of event2mqtt for each of its
users: it gives the same again as long as that is there. The exit status is 4 if
it is refused, or if nobody allows it in time.`,
		Example: `  event2mqtt connect octoprint http://octopi.local
  event2mqtt connect octoprint http://192.168.1.20:5000 --name ender --config config.yaml
  event2mqtt connect octoprint https://pi.example/octoprint/ --ca /etc/ssl/own-ca.pem
  event2mqtt connect octoprint http://octopi.local --renew`,
		Args: needs("URL", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			if print && renew {
				return misused("--print writes nothing, and --renew replaces a key; give one of them")
			}
			if c.compat != "" && c.compat != compatPlugin {
				return misused("--compat %s: there is %s alone", c.compat, compatPlugin)
			}
			if err := c.begin(cmd, args[0]); err != nil {
				return err
			}
			switch {
			case print:
				return c.print()
			case renew:
				return c.renew()
			}
			return c.connect()
		},
	}
	c.addFlags(cmd)
	cmd.Flags().StringVar(&c.compat, "compat", "", "publish what a plugin published, to its topics: octoprint-mqtt")
	cmd.Flags().BoolVar(&print, "print", false, "write no file: print the source, with its key")
	cmd.Flags().BoolVar(&renew, "renew", false, "get a new key for the source that is there already, and change nothing else")
	return cmd
}

// octoPrintSetup is what connecting to an OctoPrint takes.
type octoPrintSetup struct {
	flags *flags
	// Of the command line.
	name, keyFile, user, compat string
	ca, proxyUser, proxyFile    string
	insecure                    bool
	named                       bool // by --name
	timeout                     time.Duration

	cmd *cobra.Command
	url *url.URL
	// options are how to reach OctoPrint; api_key is set once it is known.
	options *octoprint.Options
	moved   bool // people know that topics of events change
}

func (c *octoPrintSetup) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.name, "name", "", "the name of the source (default octoprint, or octoprint-2 if there is one of that name)")
	cmd.Flags().StringVar(&c.keyFile, "key-file", "", "the file that gets the key (default NAME.key beside the configuration); if it holds one already, that is used, and OctoPrint is not asked")
	cmd.Flags().StringVar(&c.user, "user", "", "the user of OctoPrint whose key it is to be; the dialog is for that user alone")
	cmd.Flags().DurationVar(&c.timeout, "timeout", 5*time.Minute, "how long to wait for the key to be allowed")
	cmd.Flags().StringVar(&c.ca, "ca", "", "for https://, a PEM file with the authority that has signed OctoPrint's certificate")
	cmd.Flags().BoolVar(&c.insecure, "insecure", false, "for https://, do not check who the server is")
	cmd.Flags().StringVar(&c.proxyUser, "proxy-user", "", "the user name that a proxy in front of OctoPrint asks for")
	cmd.Flags().StringVar(&c.proxyFile, "proxy-password-file", "", "a file with the password of --proxy-user")
	for _, name := range []string{"key-file", "ca", "proxy-password-file"} {
		_ = cmd.MarkFlagFilename(name)
	}
	for _, name := range []string{"name", "user", "timeout", "proxy-user"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
}

// say tells people something; what others read is printed.
func (c *octoPrintSetup) say(format string, args ...any) {
	fmt.Fprintf(c.cmd.ErrOrStderr(), format+"\n", args...)
}

// begin reads the command line.
func (c *octoPrintSetup) begin(cmd *cobra.Command, address string) (err error) {
	c.cmd, c.named = cmd, c.name != ""
	if u, err := url.Parse(address); err == nil && u.User != nil {
		return misused("%q holds a user; give --proxy-user and --proxy-password-file instead", u.Redacted())
	}
	if c.url, err = api.ParseURL(address); err != nil {
		return misused("%w", err)
	}
	if c.timeout < time.Second {
		return misused("--timeout %s: give at least 1s", c.timeout)
	}
	if (c.proxyUser == "") != (c.proxyFile == "") {
		return misused("--proxy-user and --proxy-password-file must be given together")
	}
	for _, path := range []*string{&c.keyFile, &c.ca, &c.proxyFile} { // the program may be started in another folder
		if *path != "" {
			if *path, err = filepath.Abs(*path); err != nil {
				return err
			}
		}
	}
	o := octoprint.Type.Options().(*octoprint.Options)
	o.URL, o.Username, o.TLS.Insecure = c.url.String(), c.proxyUser, c.insecure
	if c.ca != "" {
		o.TLS.CA = c.ca
	}
	if c.proxyFile != "" {
		if o.Password, err = readSecret(c.proxyFile); err != nil {
			return misused("--proxy-password-file: %w", err)
		}
	}
	if _, err := o.Client(); err != nil {
		if text, ok := strings.CutPrefix(err.Error(), "tls.ca: "); ok {
			return misused("--ca: %s", text)
		}
		return misused("%w", err)
	}
	c.options = o
	return nil
}

// readSecret reads a file with a secret, as the configuration's {file: PATH}.
func readSecret(path string) (config.Secret, error) {
	text, err := file.Read(path, file.MaxSecret)
	return config.Secret(strings.TrimRight(string(text), "\r\n")), err
}

// item is the source as it is written into a configuration.
func (c *octoPrintSetup) item(key any, more edit.Group) edit.Group {
	item := edit.Group{{Key: "name", Value: c.name}, {Key: "type", Value: octoprint.Type.Name}, {Key: "url", Value: c.url.String()}, {Key: "api_key", Value: key}}
	if c.proxyUser != "" {
		item = append(item, edit.Pair{Key: "username", Value: c.proxyUser}, edit.Pair{Key: "password", Value: edit.Group{{Key: "file", Value: c.proxyFile}}})
	}
	var tls edit.Group
	if c.ca != "" {
		tls = append(tls, edit.Pair{Key: "ca", Value: c.ca})
	}
	if c.insecure {
		tls = append(tls, edit.Pair{Key: "insecure", Value: true})
	}
	if tls != nil {
		item = append(item, edit.Pair{Key: "tls", Value: tls})
	}
	if c.compat != "" {
		item = append(item, edit.Pair{Key: "compat", Value: c.compat})
	}
	return append(item, more...)
}

// given is the key that --key-file holds already; empty if it holds none.
func (c *octoPrintSetup) given() (string, error) {
	if c.keyFile == "" {
		return "", nil
	}
	key, err := readSecret(c.keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := file.Stat(filepath.Dir(c.keyFile)); err != nil {
			return "", misused("--key-file: there is no folder for %s; make it first", c.keyFile)
		}
		return "", nil
	}
	if err != nil {
		return "", misused("--key-file: %w", err)
	}
	return strings.TrimSpace(string(key)), nil
}

// key returns a key that OctoPrint accepts: the one of --key-file, or a new one.
func (c *octoPrintSetup) key() (key string, err error) {
	ctx, stop := signal.NotifyContext(c.cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if key, err = c.given(); err != nil {
		return "", err
	}
	if key != "" {
		c.say("using the key in %s", c.keyFile)
	} else if key, err = c.ask(ctx); err != nil {
		return "", err
	}
	o := *c.options
	o.APIKey = config.Secret(key)
	client, err := o.Client()
	if err != nil {
		return "", err
	}
	defer client.Close()
	session, err := client.Login(ctx)
	if err == nil && session.Lacks(api.MaySee) {
		return "", &failure{exitRefused, fmt.Errorf("the key is of user %s, who lacks the permission %s, without which OctoPrint tells nothing; give it under Settings, Access Control, or let another user allow it (--user NAME)", quoteIfOdd(session.Name), api.MaySee)}
	}
	if err == nil {
		var version api.Version
		if version, err = client.Version(ctx); err == nil {
			c.say("OctoPrint %s accepts the key of user %s", quoteIfOdd(version.Server), quoteIfOdd(session.Name))
			return key, nil
		}
	}
	return "", c.explain(err)
}

// ask asks OctoPrint for a key, and waits until people have decided.
func (c *octoPrintSetup) ask(ctx context.Context) (string, error) {
	client, err := c.options.Client()
	if err != nil {
		return "", err
	}
	defer client.Close()
	request, err := client.RequestKey(ctx, "event2mqtt", c.user)
	if err != nil {
		return "", c.explain(err)
	}
	c.say("Allow event2mqtt in OctoPrint: a dialog is shown in each page of it that is open and logged in. Or open")
	c.say("  %s", c.dialog(request.Dialog))
	patience := strings.TrimSuffix(c.timeout.String(), "m0s") // 5m0s is 5m
	if patience != c.timeout.String() {
		patience += "m"
	}
	c.say("Waiting for %s at most; Ctrl-C ends it.", patience)
	waiting, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	key, err := client.AwaitKey(waiting, request)
	switch {
	case ctx.Err() != nil:
		return "", errors.New("interrupted; nothing was changed")
	case waiting.Err() != nil && err != nil:
		return "", c.inVain(patience, err)
	case errors.Is(err, api.ErrDenied):
		return "", &failure{exitRefused, fmt.Errorf("%w; nothing was changed; try again", err)}
	}
	return key, c.explain(err)
}

// inVain is the error of a request that nobody has decided about in time.
func (c *octoPrintSetup) inVain(patience string, err error) error {
	if away, ok := errors.AsType[*api.Error](err); ok {
		return fmt.Errorf("waited in vain for %s: %s; nothing was changed; try again when it is there", patience, away.Text)
	}
	if c.user != "" { // OctoPrint shows the dialog to nobody else, and says nothing of a user it does not have
		return &failure{exitRefused, fmt.Errorf("nobody has allowed it within %s; is there a user %s in OctoPrint, who sees its page? nothing was changed; try again, without --user or with a longer --timeout if need be", patience, quoteIfOdd(c.user))}
	}
	return &failure{exitRefused, fmt.Errorf("nobody has allowed it within %s; nothing was changed; try again, with a longer --timeout if need be", patience)}
}

// dialog is the address where people decide, if it is one; what it says comes
// from outside.
func (c *octoPrintSetup) dialog(text string) string {
	const most = 2000
	if u, err := url.Parse(text); err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && len(text) < most {
		return u.String()
	}
	return c.url.String() + "/"
}

// explain says what to do about an error of OctoPrint's, here on the command
// line.
func (c *octoPrintSetup) explain(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted; nothing was changed")
	}
	if errors.Is(err, api.ErrNoAppKeys) {
		return fmt.Errorf("OctoPrint at %s gives no keys: its plugin Application Keys is switched off; switch it on in OctoPrint's Plugin Manager and try again, or make a key there under User Settings, write it into a file, and name that with --key-file", c.url)
	}
	e, ok := errors.AsType[*api.Error](err)
	if !ok {
		return err
	}
	hint := e.Hint
	switch e.Kind {
	case api.Away:
		hint = "is it switched on and started, and is the address right? try again then; nothing was changed"
		if c.url.Scheme == "https" && strings.HasSuffix(e.Text, "(no answer)") { // it waits for HTTP while we wait for TLS
			hint = "does it speak https? if not, write http://; " + hint
		}
	case api.Key:
		if c.keyFile != "" {
			return &failure{exitRefused, fmt.Errorf("%s; correct %s, or try again without --key-file to get a new one", e.Text, c.keyFile)}
		}
		return &failure{exitRefused, fmt.Errorf("%s, though it has just been given; let a user who may use keys allow it, and try again", e.Text)}
	case api.Proxy:
		hint = "give --proxy-user and --proxy-password-file"
		if c.proxyUser != "" {
			hint = "--proxy-user or its password is wrong"
		}
	case api.Certificate:
		if strings.Contains(hint, "tls.ca") {
			hint = "give --ca FILE with the authority's certificate, or --insecure"
		}
	case api.Foreign:
		hint = "is the address right, the path included?"
	case api.Busy:
		hint = "it takes three requests for a key in a minute, five in ten minutes and ten in an hour, those that nobody allowed included; try again later"
	}
	if hint == "" {
		return errors.New(e.Text)
	}
	return fmt.Errorf("%s; %s", e.Text, hint)
}

// print asks for the key and prints the source, and writes nothing but a key
// file that was named.
func (c *octoPrintSetup) print() error {
	if c.name == "" {
		c.name = octoprint.Type.Name
	}
	key, err := c.key()
	if err != nil {
		return err
	}
	var value any = key
	if c.keyFile != "" {
		f := &configFile{flags: c.flags, path: c.keyFile}
		if given, err := c.given(); err != nil {
			return err
		} else if given == "" {
			if err := f.writeSecret(c.keyFile, key); err != nil {
				return err
			}
		}
		value = edit.Group{{Key: "file", Value: c.keyFile}}
	}
	return printItem(c.cmd, c.item(value, nil))
}

// printItem prints a source as it is written in a configuration.
func printItem(cmd *cobra.Command, item edit.Group) error {
	_, err := fmt.Fprint(cmd.OutOrStdout(), "sources:\n"+listed(item))
	return err
}

// openConfig finds the configuration and reads it.
func (c *octoPrintSetup) openConfig() (*configFile, error) {
	dir, err := lookedAt(c.flags.stateDir, c.cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	path, err := findConfig(c.flags, dir, serviceConfig, c.cmd.ErrOrStderr())
	if err != nil {
		return nil, err
	}
	return openConfig(c.flags, dir, path)
}
