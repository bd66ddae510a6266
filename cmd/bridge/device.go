package main

import (
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"event2mqtt/internal/broker/accounts"
)

// deviceCommand manages devices: accounts with a client id and a password of
// their own, made here and shown once.
func deviceCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "device",
		Short: "Manage the devices that use the bundled broker",
		Long: `Makes credentials for one device each: a client id, a user name and a
password, which are shown once. The device may use no other client id and do
nothing but what its rules allow. A running broker follows at once.

--for tasmota and --for esphome make the rules that such a device needs, for
topics with its name, and print what to enter on it. --for homeassistant makes
a user, who may do everything and use any client id.`,
	}
	cmd.AddCommand(deviceAdd(f), deviceReset(f), userRemove(f, "device"), accountList(f, "device"))
	return group(cmd)
}

func deviceAdd(f *flags) *cobra.Command {
	var allow []string
	var mac string
	var out output
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make credentials for a device and show them, once",
		Example: `  event2mqtt device add kitchen --for tasmota
  event2mqtt device add porch --for esphome
  event2mqtt device add homeassistant --for homeassistant
  event2mqtt device add meter --allow 'meter/#:w' --allow 'meter/set/#:r'`,
		Args: needs("NAME", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := newDevice(f, args[0], &out, mac, allow)
			if err != nil {
				return err
			}
			file, err := openAccounts(cmd, f, true)
			if err != nil {
				return err
			}
			password := newPassword()
			u.Hash = accounts.Hash(password)
			if err := addAccount(cmd, file, u); err != nil {
				return err
			}
			return out.show(cmd, f, u, password)
		},
	}
	cmd.Flags().StringArrayVar(&allow, "allow", nil, "a rule such as 'tele/kitchen/#:rw', in the place of those that --for makes; may be given again")
	cmd.Flags().StringVar(&mac, "mac", "", "a Tasmota device's MAC address, so that it keeps its client id and with that its fallback topic, and may announce no other device")
	out.addFlags(cmd, "make the rules of a tasmota, an esphome or homeassistant, and print what to enter there")
	return cmd
}

// newDevice is the account of a device, without a password. mac and allow are as
// on the command line, and may be empty.
func newDevice(f *flags, name string, out *output, mac string, allow []string) (u accounts.User, err error) {
	k, err := out.kind(f, len(allow) == 0)
	if err != nil {
		return u, err
	}
	if mac != "" {
		if out.format != "tasmota" {
			return u, fmt.Errorf("--mac %s is only of use with --for tasmota", mac)
		}
		if mac, err = macDigits(mac); err != nil {
			return u, err
		}
	}
	if len(allow) == 0 {
		if k.rules == nil {
			return u, fmt.Errorf("what may %[1]s do? Say what it is, such as --for tasmota, or give at least one rule, such as --allow 'tele/%[1]s/#:rw'", name)
		}
		if k.checkName != nil {
			if err := k.checkName(name, &out.own); err != nil {
				return u, err
			}
		}
		allow = k.rules(ask{name, mac, out.own.prefix})
	}
	rules, err := accounts.ParseRules(allow)
	if err != nil {
		return u, err
	}
	if err := accounts.CheckName(name); err != nil {
		return u, err
	}
	u = accounts.User{Name: name, Allow: rules.Strings()}
	switch {
	case mac != "":
		u.ClientID = tasmotaClient(mac)
	case !k.user:
		u.ClientID = strings.ReplaceAll(name, " ", "_") + "-" + strings.ToLower(rand.Text()[:6])
	}
	return u, nil
}

func deviceReset(f *flags) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "reset NAME",
		Short: "Make a new password for a device, show it, and cut off what uses the old one",
		Args:  needs("NAME", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := out.kind(f, false); err != nil {
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
	out.addFlags(cmd, "print what to enter on a tasmota, an esphome or homeassistant")
	return cmd
}

// newPassword makes a password of 130 bits that can be typed.
func newPassword() string { return strings.ToLower(rand.Text()) }
