package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/config/edit"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/sources/octoprint"
	"event2mqtt/internal/sources/octoprint/migrate"
)

// importCommand takes over the configuration of other programs.
func importCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{Use: "import", Short: "Take over the configuration of another program"}
	cmd.AddCommand(importOctoPrint(f))
	return group(cmd)
}

func importOctoPrint(f *flags) *cobra.Command {
	var address string
	var print bool
	i := octoPrintImport{octoPrintSetup: octoPrintSetup{flags: f}}
	other := clearPlugin{flags: f}
	cmd := &cobra.Command{
		Use:   "octoprint [FILE]",
		Short: "Take over the settings of OctoPrint-MQTT, or clear what OctoPrint-HomeAssistant left",
		Long: `Turns the settings of the plugin OctoPrint-MQTT into a configuration of
event2mqtt: the same broker, topics, retained flags and switches, so that what
reads the plugin's topics goes on as before. Each setting that is not as it was
is named, with the reason and what to do. OctoPrint's file is only read.

With --config FILE it is added to that configuration, which is made if it is not
there: OctoPrint is asked for a key as "connect octoprint" does, the key and the
broker's password go into files beside it that their owner alone can read, the
result is checked, and an event2mqtt that runs with it applies it. Options that
are set there already stay as they are; it says which of the added ones, such as
publish.base_topic, hold for other sources too. Without --config, or with
--print, it is printed, and nothing is written.

With --clear-homeassistant nothing is imported. The plugin OctoPrint-HomeAssistant
has announced OctoPrint to Home Assistant, as a second device beside the one of
event2mqtt; this removes it from the broker, with the plugin's own states, and
nothing else. Switch the plugin off in OctoPrint first: one that is still on is
noticed as far as possible, and left alone. With FILE only the device of that
OctoPrint is removed; without, what each such plugin has left. The broker is that
of the event2mqtt that runs, or of --config. With --print it only lists what it
would remove.`,
		Example: `  event2mqtt import octoprint ~/.octoprint/config.yaml
  event2mqtt import octoprint ~/.octoprint/config.yaml --config /etc/event2mqtt/config.yaml
  event2mqtt import octoprint config.yaml --url http://octopi.local --config config.yaml
  event2mqtt import octoprint --clear-homeassistant --print
  event2mqtt import octoprint ~/.octoprint/config.yaml --clear-homeassistant`,
		Args: other.args,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := other.misuse(cmd); err != nil {
				return err
			}
			if other.wanted {
				return other.run(cmd, args, print)
			}
			if err := i.read(args[0]); err != nil {
				return err
			}
			if address == "" {
				address = fmt.Sprintf("http://127.0.0.1:%d", i.port())
				defer func() {
					fmt.Fprintf(cmd.ErrOrStderr(), "OctoPrint is taken to be at %s; if it is not, give --url\n", address)
				}()
			}
			if err := i.begin(cmd, address); err != nil {
				return err
			}
			if print || f.config == "" {
				return i.print()
			}
			return i.add()
		},
	}
	i.addFlags(cmd)
	other.addFlags(cmd)
	cmd.Flags().StringVar(&address, "url", "", "where OctoPrint is, with the path if it has one (default this machine, at the port in FILE or 5000)")
	cmd.Flags().BoolVar(&print, "print", false, "write no file: print the configuration; with --clear-homeassistant, remove nothing")
	_ = cmd.RegisterFlagCompletionFunc("url", cobra.NoFileCompletions)
	return cmd
}

// octoPrintImport is the plugin's configuration on its way into ours.
type octoPrintImport struct {
	octoPrintSetup
	path   string
	text   []byte
	result *migrate.Result
	kept   []string // options that are configured otherwise already
}

// read reads the plugin's configuration, with a name that may not be the last.
func (i *octoPrintImport) read(path string) (err error) {
	i.path = path
	if i.text, err = file.Read(path, migrate.MaxFile); err != nil {
		return misused("read OctoPrint's configuration: %w", err)
	}
	return i.convert(octoprint.Type.Name)
}

func (i *octoPrintImport) convert(name string) (err error) {
	if i.result, err = migrate.Read(i.text, name); err != nil {
		return fmt.Errorf("%s: %w", i.path, err)
	}
	return nil
}

// port is where OctoPrint itself listens.
func (i *octoPrintImport) port() int {
	const usual = 5000
	if i.result.Port == 0 {
		return usual
	}
	return i.result.Port
}

// tell names what is not as it was, a line for each.
func (i *octoPrintImport) tell() {
	for _, n := range i.result.Notes {
		i.say("note: %s", n)
	}
}

// change returns what adds everything to a configuration. The arguments are
// values of mqtt.password and of the source's api_key.
func (i *octoPrintImport) change(password, key any, withBroker bool) func([]byte) ([]byte, error) {
	mqtt := slices.Clone(i.result.MQTT)
	if at := slices.IndexFunc(mqtt, func(p edit.Pair) bool { return p.Key == "username" }); at >= 0 && i.result.Password != "" {
		mqtt = slices.Insert(mqtt, at+1, edit.Pair{Key: "password", Value: password})
	}
	if !withBroker {
		mqtt = slices.DeleteFunc(mqtt, func(p edit.Pair) bool { return p.Key != "will" })
	}
	item := i.item(key, i.result.Source)
	return func(text []byte) (_ []byte, err error) {
		i.kept = nil
		for _, section := range []struct {
			key  string
			keys edit.Group
		}{{"mqtt", mqtt}, {"publish", i.result.Publish}} {
			var kept []string
			if text, kept, err = edit.AddKeys(text, section.key, section.keys); err != nil {
				return nil, err
			}
			for _, key := range kept {
				at := slices.IndexFunc(section.keys, func(p edit.Pair) bool { return p.Key == key })
				value := edit.Group{section.keys[at]}.Flow()
				if key == "password" {
					value = "another"
				}
				i.kept = append(i.kept, fmt.Sprintf("%s.%s is configured already and stays; the plugin has %s", section.key, key, value))
			}
		}
		for _, rule := range slices.Backward(i.result.Rules) {
			if text, err = edit.AddItem(text, "rules", rule.String()); err != nil {
				return nil, err
			}
		}
		return addSource(item)(text)
	}
}

// print prints a configuration, and writes nothing.
func (i *octoPrintImport) print() error {
	if i.name == "" {
		i.name = octoprint.Type.Name
	}
	if err := i.convert(i.name); err != nil {
		return err
	}
	i.tell()
	return i.show()
}

// show prints the configuration.
func (i *octoPrintImport) show() error {
	dir := filepath.Dir(serviceConfig)
	if i.flags.config != "" {
		path, err := filepath.Abs(i.flags.config)
		if err != nil {
			return err
		}
		dir = filepath.Dir(path)
	}
	key, password := i.keyFile, filepath.Join(dir, "mqtt.password")
	if key == "" {
		key = filepath.Join(dir, "octoprint.key")
	}
	text, err := i.change(edit.Group{{Key: "file", Value: password}}, edit.Group{{Key: "file", Value: key}}, true)(nil)
	if err != nil {
		return err
	}
	var head strings.Builder
	fmt.Fprintf(&head, "# Made of the settings of OctoPrint-MQTT.\n# %s: a key of OctoPrint; \"event2mqtt connect octoprint %s --print --key-file %s\" writes it\n", key, i.url, key)
	if i.result.Password != "" {
		fmt.Fprintf(&head, "# %s: the password of the broker, broker.password of the plugin\n", password)
	}
	_, err = fmt.Fprint(i.cmd.OutOrStdout(), head.String()+string(text))
	return err
}

// add adds the configuration to that of --config.
func (i *octoPrintImport) add() error {
	file, err := i.openConfig()
	if err != nil {
		return err
	}
	if err := i.place(file); err != nil {
		return err
	}
	i.tell()
	withBroker, note := i.brokerFits(file)
	if note != "" {
		i.say("note: %s", note)
	}
	after, err := i.rehearse(file, i.tellingApart(file, i.change("placeholder", "placeholder", withBroker)))
	if err != nil {
		return err
	}
	if file.byHand != nil {
		if err := i.show(); err != nil {
			return err
		}
		return fmt.Errorf("nothing was changed; write what is printed above into %s; of a section that is there already, add only the lines below it", file.path)
	}
	for _, kept := range i.kept {
		i.say("note: %s", kept)
	}
	i.warnOfAll(file, after)
	key, err := i.key()
	if err != nil {
		return err
	}
	if err := i.put(&file, key); err != nil {
		return err
	}
	err = i.finish(file)
	i.say("Switch OctoPrint-MQTT off now, in OctoPrint's Plugin Manager: while both run, each message comes twice.")
	return err
}

// place finds the source its place in the configuration, by its name.
func (i *octoPrintImport) place(file *configFile) error {
	if at := octoPrintAt(file.plan, i.url); len(at) > 0 {
		return fmt.Errorf("%s has a source for %s already: %s; nothing was changed; remove it there and import again, or print what to write with --print", file.path, i.url, nameOf(file.plan, at[0]))
	}
	if err := i.chooseName(file.plan); err != nil {
		return err
	}
	return i.convert(i.name)
}

// put keeps the secrets and adds everything to the configuration, whose present
// state it leaves in file.
func (i *octoPrintImport) put(file **configFile, key string) error {
	fresh, unlock, err := (*file).locked()
	if err != nil {
		return err
	}
	defer unlock()
	*file = fresh
	if err := i.place(fresh); err != nil {
		return err
	}
	withBroker, _ := i.brokerFits(fresh)
	keyFile, err := i.keep(fresh, key)
	if err != nil {
		return err
	}
	passwordFile := ""
	if i.result.Password != "" && withBroker {
		if passwordFile, err = fresh.newSecret("mqtt", ".password", i.result.Password); err != nil {
			return err
		}
		i.say("the password of the broker is in %s", passwordFile)
	}
	change := i.change(edit.Group{{Key: "file", Value: passwordFile}}, edit.Group{{Key: "file", Value: keyFile}}, withBroker)
	if err := fresh.replace(i.tellingApart(fresh, change)); err != nil {
		if passwordFile != "" {
			err = errors.Join(err, os.Remove(passwordFile))
		}
		return fmt.Errorf("%w\nthe configuration was not changed; the key is in %s: import again with --key-file %s", err, keyFile, keyFile)
	}
	fmt.Fprintf(i.cmd.OutOrStdout(), "the settings of OctoPrint-MQTT, and the source %s, are in %s\n", i.name, fresh.path)
	i.warnOfDefault(fresh)
	return nil
}

// warnOfAll says what becomes different for everything that a configuration has
// already: the plugin's settings were for OctoPrint alone.
func (i *octoPrintImport) warnOfAll(file *configFile, after *bridge.Plan) {
	if file.info == nil {
		return
	}
	before, others := file.plan, "those of event2mqtt itself"
	for n := range before.Sources {
		others += ", of the source " + nameOf(before, n)
	}
	if was, is := before.Publish.BaseTopic, after.Publish.BaseTopic; was != is {
		i.say("note: publish.base_topic: all topics now begin with %s/ instead of %s/: also %s; change their subscribers, too", is, was, others)
	}
	if was, is := before.Publish.TimestampField, after.Publish.TimestampField; was != is {
		i.say("note: publish.timestamp_field: all events now have their time as %s instead of %s", is, was)
	}
	if was, is := before.MQTT.Will, after.MQTT.Will; was != is && len(before.Sources) > 0 {
		i.say("note: mqtt.will: event2mqtt now says on the plugin's topic that it is connected, for all sources")
	}
	if n := len(i.result.Rules); n > 0 && len(before.Rules) > 0 {
		i.say("note: rules: the %s for the source %s come before those that were there", counted(n, "rule"), i.name)
	}
}

// brokerFits reports whether the plugin's broker is to be configured, and what
// people must know of that: not in the place of another one, whose user and
// certificates it would get.
func (i *octoPrintImport) brokerFits(file *configFile) (fits bool, note string) {
	at := slices.IndexFunc(i.result.MQTT, func(p edit.Pair) bool { return p.Key == "url" })
	if at < 0 {
		return false, ""
	}
	address := i.result.MQTT[at].Value.(string)
	switch {
	case len(file.plan.MQTT.URL) == 0 && file.info == nil:
	case len(file.plan.MQTT.URL) == 0:
		return true, fmt.Sprintf("events now go to the plugin's broker, %s, instead of the bundled one", address)
	case !slices.Equal(file.plan.MQTT.URL, []string{address}):
		return false, fmt.Sprintf("broker.url: event2mqtt already publishes to %s, and still does; the plugin's broker, %s, and its user and certificates are left out", strings.Join(file.plan.MQTT.URL, ", "), address)
	}
	return true, ""
}
