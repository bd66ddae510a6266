package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/control"
)

// deviceCommand manages devices: accounts with a client id and a password of
// their own, made here and shown once.
func deviceCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "device",
		Short: "Manage the devices that use the bundled broker",
		Long: `Makes credentials for one device each: a client id, a user name and a
password, which are shown once. The device may use no other client id and do
nothing but what its rules allow. A running broker follows at once.`,
	}
	cmd.AddCommand(deviceAdd(f), deviceReset(f), userRemove(f, "device"), accountList(f, "device"))
	return group(cmd)
}

// credentials are what a device needs to know.
type credentials struct {
	Host     string   `json:"host"`
	Port     int      `json:"port"`
	ClientID string   `json:"client_id"`
	Username string   `json:"username"`
	Password string   `json:"password"`
	Allow    []string `json:"allow"`
}

// output says how credentials are shown.
type output struct {
	host   string
	json   bool
	format string
}

func (o *output) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.host, "host", "", "the broker's address as the device sees it (default this machine's)")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	cmd.Flags().StringVar(&o.format, "for", "", "print a snippet for tasmota, esphome or homeassistant")
}

// snippets are the values of --for.
var snippets = []string{"tasmota", "esphome", "homeassistant"}

func (o *output) check() error {
	if o.format == "" || slices.Contains(snippets, o.format) {
		return nil
	}
	return fmt.Errorf("--for %s: there are snippets for tasmota, esphome and homeassistant", o.format)
}

func deviceAdd(f *flags) *cobra.Command {
	var allow []string
	var out output
	cmd := &cobra.Command{
		Use:     "add NAME --allow RULE",
		Short:   "Make credentials for a device and show them, once",
		Example: "  event2mqtt device add kitchen --allow 'tele/kitchen/#:rw' --allow 'cmnd/kitchen/#:r' --for tasmota",
		Args:    needs("NAME", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if len(allow) == 0 {
				return fmt.Errorf("what may %s do? give at least one rule, such as --allow 'tele/%s/#:rw'", args[0], args[0])
			}
			rules, err := accounts.ParseRules(allow)
			if err != nil {
				return err
			}
			if err := accounts.CheckName(args[0]); err != nil {
				return err
			}
			file, err := openAccounts(cmd, f, true)
			if err != nil {
				return err
			}
			password := newPassword()
			u := accounts.User{Name: args[0], Hash: accounts.Hash(password), ClientID: strings.ReplaceAll(args[0], " ", "_") + "-" + strings.ToLower(rand.Text()[:6]), Allow: rules.Strings()}
			if err := addAccount(cmd, file, u); err != nil {
				return err
			}
			return out.show(cmd, f, u, password)
		},
	}
	cmd.Flags().StringArrayVar(&allow, "allow", nil, "a rule such as 'tele/kitchen/#:rw'; may be given again")
	out.addFlags(cmd)
	return cmd
}

func deviceReset(f *flags) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "reset NAME",
		Short: "Make a new password for a device, show it, and cut off what uses the old one",
		Args:  needs("NAME", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			password := newPassword()
			var device accounts.User
			err := changeUser(cmd, f, args[0], func(u *accounts.User) error {
				if !u.IsDevice() {
					return fmt.Errorf("%s is a user; see \"%s user passwd\"", u.Name, cmd.Root().Name())
				}
				u.Hash = accounts.Hash(password)
				device = *u
				return nil
			})
			if err != nil {
				return err
			}
			return out.show(cmd, f, device, password)
		},
	}
	out.addFlags(cmd)
	return cmd
}

// newPassword makes a password of 130 bits that can be typed.
func newPassword() string { return strings.ToLower(rand.Text()) }

func (o *output) show(cmd *cobra.Command, f *flags, u accounts.User, password string) error {
	w := cmd.OutOrStdout()
	c := credentials{Host: o.host, Port: 1883, ClientID: u.ClientID, Username: u.Name, Password: password, Allow: u.Allow}
	broker := brokerAddress(f)
	if host, port, err := net.SplitHostPort(broker.Address); err == nil {
		if n, err := net.LookupPort("tcp", port); err == nil {
			c.Port = n
		}
		if ip := net.ParseIP(host); c.Host == "" && ip != nil && !ip.IsUnspecified() {
			c.Host = host
		}
	}
	if c.Host == "" {
		c.Host = ownAddress()
	}
	if ip := net.ParseIP(c.Host); ip != nil && ip.IsLoopback() && o.host == "" {
		fmt.Fprintln(cmd.ErrOrStderr(), "The broker listens on this machine alone; for devices elsewhere, set broker.listen to 0.0.0.0:1883.")
	}
	if broker.TLS {
		fmt.Fprintln(cmd.ErrOrStderr(), "The broker listens with TLS alone; the device has to speak it, too.")
	}
	if o.json {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(c)
	}
	var err error
	switch o.format {
	case "tasmota":
		_, err = fmt.Fprintf(w, "Backlog MqttHost %s; MqttPort %d; MqttClient %s; MqttUser %s; MqttPassword %s\n", c.Host, c.Port, c.ClientID, c.Username, c.Password)
	case "esphome":
		_, err = fmt.Fprintf(w, "mqtt:\n  broker: %s\n  port: %d\n  client_id: %s\n  username: %q\n  password: %q\n", c.Host, c.Port, c.ClientID, c.Username, c.Password)
	case "homeassistant":
		_, err = fmt.Fprintf(w, "In Home Assistant: Settings, Devices & services, Add integration, MQTT. Enter\n"+
			"  Broker            %s\n  Port              %d\n  Username          %s\n  Password          %s\nand under advanced options\n  Client ID         %s\n  MQTT protocol     5\n",
			c.Host, c.Port, c.Username, c.Password, c.ClientID)
	default:
		_, err = fmt.Fprintf(w, "host       %s\nport       %d\nclient id  %s\nuser       %s\npassword   %s\nallowed    %s\n\nThe password is not shown again; \"%s device reset %s\" makes a new one.\n",
			c.Host, c.Port, c.ClientID, c.Username, c.Password, strings.Join(c.Allow, ", "), cmd.Root().Name(), c.Username)
	}
	return err
}

// brokerAddress is where the broker listens: as the configuration says that is
// named, else where that of the program which runs does, else by default.
func brokerAddress(f *flags) (found control.Broker) {
	dir, err := stateDir(f.stateDir, io.Discard, false)
	if err != nil {
		return found
	}
	if f.config == "" && len(f.set) == 0 {
		if running, ok := control.RunningBroker(dir); ok {
			return running
		}
	}
	plan, err := bridge.Load(f.config, os.Environ(), dir, f.set...)
	if err != nil {
		return found
	}
	if plan.Broker.Listen == "off" && plan.Broker.TLS.Listen != "" {
		return control.Broker{Address: plan.Broker.TLS.Listen, TLS: true}
	}
	return control.Broker{Address: plan.Broker.Listen}
}

// ownAddress is how other machines most likely reach this one.
func ownAddress() string {
	addresses, _ := net.InterfaceAddrs()
	for _, a := range addresses {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsPrivate() {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}
