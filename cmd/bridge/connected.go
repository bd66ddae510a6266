package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/config"
	"event2mqtt/internal/config/edit"
	"event2mqtt/internal/sources/octoprint"
	"event2mqtt/internal/sources/octoprint/api"
	"event2mqtt/internal/topic"
)

// This file is what becomes of a key: it goes into a file, the source into the
// configuration, and that into the program that runs.

// octoPrintAt are the numbers of the sources that are at an address.
func octoPrintAt(plan *bridge.Plan, u *url.URL) (found []int) {
	for i, item := range plan.Sources {
		m, _ := item.(map[string]any)
		text, _ := m["url"].(string)
		other, err := api.ParseURL(text)
		if m["type"] == octoprint.Type.Name && err == nil && api.Server(other) == api.Server(u) && other.Path == u.Path {
			found = append(found, i)
		}
	}
	return found
}

// nameOf is the name of the source with a number.
func nameOf(plan *bridge.Plan, i int) string {
	m, _ := plan.Sources[i].(map[string]any)
	return fmt.Sprint(m["name"])
}

// chooseName gives the source a name that no other has, also in topics: that of
// --name, if there is one.
func (c *octoPrintSetup) chooseName(plan *bridge.Plan) error {
	taken := map[string]bool{}
	for i := range plan.Sources {
		taken[topic.Safe(nameOf(plan, i))] = true
	}
	if c.named {
		if taken[topic.Safe(c.name)] {
			return misused("there is a source %s already; choose another --name", c.name)
		}
		return nil
	}
	c.name = octoprint.Type.Name
	for n := 2; taken[c.name]; n++ {
		c.name = fmt.Sprintf("%s-%d", octoprint.Type.Name, n)
	}
	return nil
}

// connect gets a key and adds the source. What could be in the way is looked for
// before OctoPrint is asked.
func (c *octoPrintSetup) connect() error {
	file, err := c.openConfig()
	if err != nil {
		return err
	}
	if err := c.place(file); err != nil {
		return err
	}
	if _, err := c.rehearse(file, c.tellingApart(file, addSource(c.item("placeholder", nil)))); err != nil {
		return err
	}
	key, err := c.key()
	if err != nil {
		return err
	}
	if err := c.add(&file, key); err != nil {
		return err
	}
	return c.finish(file)
}

// place finds the source its place in the configuration, by its name.
func (c *octoPrintSetup) place(file *configFile) error {
	if at := octoPrintAt(file.plan, c.url); len(at) > 0 {
		return fmt.Errorf("%s has a source for %s already: %s; nothing was changed; to get it a new key: %s %s --renew", file.path, c.url, nameOf(file.plan, at[0]), c.cmd.CommandPath(), c.url)
	}
	return c.chooseName(file.plan)
}

// rehearse tries a change out, and returns what would be configured then. A
// change that has to be made by hand is announced, and the plan is nil.
func (c *octoPrintSetup) rehearse(file *configFile, change func([]byte) ([]byte, error)) (plan *bridge.Plan, err error) {
	text, err := file.with(change)
	if file.byHand != nil {
		c.say("%s is not changed, as %s; what to write is shown at the end.", file.path, file.byHand)
		return nil, nil
	}
	if err == nil {
		plan, err = file.check(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\nnothing was changed", err)
	}
	return plan, nil
}

// keep writes the key into its file, unless it is there, and returns the path.
func (c *octoPrintSetup) keep(file *configFile, key string) (path string, err error) {
	if path = c.keyFile; path == "" {
		path, err = file.newSecret(c.name, ".key", key)
	} else {
		var given string
		switch given, err = c.given(); {
		case err != nil || given == key:
			return path, err
		case given != "":
			return "", fmt.Errorf("%s holds another key than before, and is left as it is; try again", path)
		}
		err = file.writeSecret(path, key)
	}
	if err != nil {
		return "", fmt.Errorf("%w; OctoPrint has the key under Settings, Application Keys: remove it there, and try again", err)
	}
	c.say("the key is in %s", path)
	return path, nil
}

// add keeps the key and adds the source to the configuration, whose present
// state it leaves in file.
func (c *octoPrintSetup) add(file **configFile, key string) error {
	fresh, unlock, err := (*file).locked()
	if err != nil {
		return err
	}
	defer unlock()
	*file = fresh
	if err := c.place(fresh); err != nil {
		return err
	}
	path, err := c.keep(fresh, key)
	if err != nil {
		return err
	}
	item := c.item(edit.Group{{Key: "file", Value: path}}, nil)
	if err := fresh.replace(c.tellingApart(fresh, addSource(item))); err != nil {
		if fresh.byHand != nil {
			err = fresh.byHand
			c.warnOfOthers(fresh)
		}
		return c.byHand(fresh, item, err)
	}
	fmt.Fprintf(c.cmd.OutOrStdout(), "the source %s is in %s\n", c.name, fresh.path)
	c.warnOfDefault(fresh)
	if !c.moved {
		c.warnOfOthers(fresh)
	}
	return nil
}

// warnOfDefault says that the default source goes, if it does.
func (c *octoPrintSetup) warnOfDefault(before *configFile) {
	if len(before.plan.Sources) == 0 {
		c.say(`note: the webhook "default" is there only while no source is configured; to keep it, add {name: default, type: webhook}`)
	}
}

// warnOfOthers says that printers publish to the same topics, if they do.
func (c *octoPrintSetup) warnOfOthers(file *configFile) {
	for i := range file.plan.Sources {
		other, ok := file.plan.Source(nameOf(file.plan, i)).(*octoprint.Options)
		switch {
		case !ok || other.Compat != c.compat:
		case c.compat != "":
			c.say("note: the source %s publishes to the same topics; give each a plugin.base_topic of its own", other.Name)
			return
		case !strings.Contains(file.plan.Publish.EventTopic, "{source}"):
			need := ""
			if file.plan.HomeAssistant.Discovery && file.plan.Publish.SourceField == "" {
				need = ", which discovery by Home Assistant needs"
			}
			c.say("note: events of the source %s go to the same topics; to tell them apart, set publish.event_topic to %q%s", other.Name, topicOfEach, need)
			return
		}
	}
}

// byHand prints what to write where, and returns why.
func (c *octoPrintSetup) byHand(file *configFile, item edit.Group, why error) error {
	there, inline := edit.Written(file.text, "sources")
	text := "sources:\n" + listed(item)
	where := "add to " + file.path
	switch {
	case file.info != nil && file.info.IsDir():
		where = "write into " + filepath.Join(file.path, c.name+".yaml")
	case there && inline:
		text, where = item.Flow()+"\n", "add to the list sources in "+file.path
	case there:
		text, where = listed(item), "add below sources: in "+file.path
	case inline:
		text = "sources: [" + item.Flow() + "]\n"
	}
	c.say("%s:", where)
	if _, err := c.cmd.OutOrStdout().Write([]byte(text)); err != nil {
		return err
	}
	return fmt.Errorf("%s is not changed: %w; %s what is printed above", file.path, why, where)
}

// listed writes an item as one of a list.
func listed(item edit.Group) string {
	return "  - " + strings.ReplaceAll(strings.TrimSpace(item.String()), "\n", "\n    ") + "\n"
}

// finish has the running program apply the source, and says where to look.
func (c *octoPrintSetup) finish(file *configFile) error {
	out := c.cmd.OutOrStdout()
	err := c.reload(file, out)
	plan, loadErr := bridge.Load(file.path, os.Environ(), file.stateDir, c.flags.set...)
	if loadErr != nil {
		return errors.Join(err, loadErr)
	}
	filter := plan.Publish.BaseTopic + "/#"
	if o, ok := plan.Source(c.name).(*octoprint.Options); ok && o.Compat != "" && o.Plugin.BaseTopic != "" {
		filter = strings.TrimSuffix(o.Plugin.BaseTopic, "/") + "/#"
	}
	fmt.Fprintf(out, "watch it: mosquitto_sub%s -v -t '%s'\n", brokerFlags(plan), filter)
	return err
}

// reload has the running program apply the source, and says how that went.
func (c *octoPrintSetup) reload(file *configFile, out io.Writer) error {
	ctx, stop := signal.NotifyContext(c.cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return file.reload(ctx, c.name, connectPatience, out)
}

// brokerFlags are what mosquitto_sub needs to find the broker.
func brokerFlags(plan *bridge.Plan) (flags string) {
	host, port := "", ""
	if len(plan.MQTT.URL) > 0 {
		if u, err := url.Parse(plan.MQTT.URL[0]); err == nil {
			host, port = u.Hostname(), u.Port()
		}
	} else {
		host, port, _ = net.SplitHostPort(plan.Broker.Listen)
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			host = ""
		}
	}
	if host != "" && host != "localhost" && host != "127.0.0.1" {
		flags += " -h " + host
	}
	if port != "" && port != "1883" {
		flags += " -p " + port
	}
	if plan.MQTT.Username != "" {
		flags += " -u " + plan.MQTT.Username + " -P PASSWORD"
	}
	return flags
}

// renew gets a new key for a source that is there.
func (c *octoPrintSetup) renew() error {
	file, err := c.openConfig()
	if err != nil {
		return err
	}
	number := -1
	at := octoPrintAt(file.plan, c.url)
	for _, i := range at {
		if c.name == "" && len(at) == 1 || c.name == nameOf(file.plan, i) {
			number = i
		}
	}
	switch {
	case len(at) == 0:
		return misused("%s has no source for %s; leave out --renew to add one", file.path, c.url)
	case number < 0:
		return misused("%s has other sources for %s; say with --name which to renew, such as %s", file.path, c.url, nameOf(file.plan, at[0]))
	case c.keyFile != "":
		return misused("--renew replaces the key in the file that the configuration names; leave out --key-file")
	}
	c.name = nameOf(file.plan, number)
	if c.proxyUser == "" && c.ca == "" && !c.insecure { // it is reached as it is configured
		o := *file.plan.Source(c.name).(*octoprint.Options)
		o.APIKey = config.Secret("")
		c.options = &o
	}
	raw, _ := file.plan.Sources[number].(map[string]any)
	reference, _ := raw["api_key"].(map[string]any)
	path, _ := reference["file"].(string)
	key, err := c.key()
	if err != nil {
		return err
	}
	if path == "" {
		if path, err = c.keep(file, key); err != nil {
			return err
		}
		return fmt.Errorf("the key of %s is not in a file of its own; write into %s: api_key: %s", c.name, file.path, edit.Group{{Key: "file", Value: path}}.Flow())
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	if old, err := readSecret(path); err == nil && string(old) == key { // OctoPrint has one for each program and user
		fmt.Fprintf(c.cmd.OutOrStdout(), "OctoPrint has given the key that is in %s already, and accepts it; nothing was changed; to get another, remove it in OctoPrint under Settings, Application Keys, and renew again\n", path)
		return c.reload(file, io.Discard) // it may have another in use, as where the last reload failed
	}
	if err := file.writeSecret(path, key); err != nil {
		return err
	}
	fmt.Fprintf(c.cmd.OutOrStdout(), "the new key is in %s\n", path)
	return c.finish(file)
}
