package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/control"
)

// This file is how a new account's credentials are shown, once.

// credentials are what a device needs to know.
type credentials struct {
	Host     string   `json:"host"`
	Port     int      `json:"port"`
	ClientID string   `json:"client_id,omitempty"`
	Username string   `json:"username"`
	Password string   `json:"password"`
	Allow    []string `json:"allow"`
	prefix   string   // home_assistant.prefix; empty if it is not known
}

// mayWrite reports whether the device may publish to a topic.
func (c credentials) mayWrite(topic string) bool {
	rules, err := accounts.ParseRules(c.Allow)
	return err == nil && rules.For(c.Username, c.ClientID).MayWrite(topic)
}

// output says how credentials are shown.
type output struct {
	host   string
	json   bool
	format string
	own    ownTopics // as far as kind has read them
}

func (o *output) addFlags(cmd *cobra.Command, snippet string) {
	cmd.Flags().StringVar(&o.host, "host", "", "the broker's address as the device sees it (default this machine's)")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	cmd.Flags().StringVar(&o.format, "for", "", snippet)
}

// kind is what --for names. rules is that some are made for it. Where it needs to
// know of the configuration, that is read.
func (o *output) kind(f *flags, rules bool) (k kind, err error) {
	k, known := kinds[o.format]
	if o.format != "" && !known {
		return kind{}, fmt.Errorf("--for %s: there are tasmota, esphome and homeassistant", o.format)
	}
	if k.discovers || rules && k.checkName != nil {
		o.own, err = loadOwnTopics(f)
	}
	return k, err
}

func (o *output) show(cmd *cobra.Command, f *flags, u accounts.User, password string) error {
	w := cmd.OutOrStdout()
	c := credentials{Host: o.host, Port: 1883, ClientID: u.ClientID, Username: u.Name, Password: password, Allow: u.Allow, prefix: o.own.prefix}
	broker := brokerAddress(f)
	if host, port, err := net.SplitHostPort(broker.Address); err == nil {
		if n, err := net.LookupPort("tcp", port); err == nil {
			c.Port = n
		}
		if ip := net.ParseIP(host); c.Host == "" && (host == "localhost" || ip != nil && !ip.IsUnspecified()) {
			c.Host = host
		}
	}
	if c.Host == "" {
		c.Host = ownAddress()
	}
	if ip := net.ParseIP(c.Host); (c.Host == "localhost" || ip != nil && ip.IsLoopback()) && o.host == "" {
		fmt.Fprintln(cmd.ErrOrStderr(), "The broker listens on this machine alone; for devices elsewhere, set broker.listen to 0.0.0.0:1883.")
	}
	if broker.TLS {
		fmt.Fprintln(cmd.ErrOrStderr(), "The broker listens with TLS alone; the device has to speak it, too.")
	}
	if o.json {
		fmt.Fprintln(cmd.ErrOrStderr(), "The password is not shown again.")
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(c)
	}
	name := cmd.Root().Name()
	if show := kinds[o.format].show; show != nil {
		if err := show(w, c); err != nil || u.IsDevice() {
			return err
		}
		_, err := fmt.Fprintf(w, "\nThe password is not shown again; \"%[1]s user passwd %[2]s\" sets another, and \"%[1]s user rm %[2]s\" removes the account.\n", name, c.Username)
		return err
	}
	_, err := fmt.Fprintf(w, "host       %s\nport       %d\nclient id  %s\nuser       %s\npassword   %s\nallowed    %s\n\nThe password is not shown again; \"%s device reset %s\" makes a new one.\n",
		c.Host, c.Port, c.ClientID, c.Username, c.Password, strings.Join(c.Allow, ", "), name, c.Username)
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
