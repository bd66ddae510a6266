package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/broker/bundled"
	"event2mqtt/internal/config/file"
)

// maxImport bounds a file of users, in bytes.
const maxImport = 16 << 20

// userCommand manages the people and programs that may use the bundled broker.
func userCommand(f *flags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Manage the users of the bundled broker",
		Long: `Manages who may connect to the bundled broker and what each may do there.
A running broker follows at once: it lets new users in, cuts off connections
whose password was changed, and applies new rules.

Rules are topic filters with r (read), w (write), rw or deny: 'tele/kitchen/#:rw'.
%u stands for the user name, %c for the client id. What no rule allows is denied.`,
	}
	cmd.AddCommand(userAdd(f), userPasswd(f), userAllow(f), userRemove(f, "user"), accountList(f, "user"), userImport(f))
	return group(cmd)
}

// openAccounts finds the accounts, and says where. keeps is that new ones are
// to be kept. A folder that a newer version wrote is refused, as by the program.
func openAccounts(cmd *cobra.Command, f *flags, keeps bool) (accounts.File, error) {
	dir, err := stateDir(f.stateDir, cmd.ErrOrStderr(), keeps)
	if err == nil {
		err = bridge.CheckFolder(dir)
	}
	if err != nil {
		return "", err
	}
	return bundled.AccountsFile(dir), nil
}

// addAccount stores a new account and says what that means to others.
func addAccount(cmd *cobra.Command, file accounts.File, u accounts.User) error {
	first := false
	err := file.Update(func(users []accounts.User) ([]accounts.User, error) {
		if _, err := accounts.Find(users, u.Name); err == nil {
			return nil, fmt.Errorf("%[1]s is there already; see \"%[2]s user list\" and \"%[2]s device list\"", u.Name, cmd.Root().Name())
		}
		if i := slices.IndexFunc(users, func(other accounts.User) bool { return u.IsDevice() && other.ClientID == u.ClientID }); i >= 0 {
			return nil, fmt.Errorf("%[1]s has the client id %[2]s, which is that of this MAC address, already; remove it with \"%[3]s device rm %[1]s\"", users[i].Name, u.ClientID, cmd.Root().Name())
		}
		first = len(users) == 0
		return append(users, u), nil
	})
	if err == nil && first {
		fmt.Fprintf(cmd.ErrOrStderr(), "This is the first account in %s: clients without a user name are no longer let in, unless broker.allow_anonymous is true.\n", file)
	}
	return err
}

func userAdd(f *flags) *cobra.Command {
	var allow []string
	var noPassword bool
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Add a user; the password is asked for, or read from standard input",
		Args:  needs("NAME", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			u := accounts.User{Name: args[0], Allow: accounts.Everything().Strings()}
			if cmd.Flags().Changed("allow") {
				u.Allow = allow
			}
			if _, err := accounts.ParseRules(u.Allow); err != nil {
				return err
			}
			if err := accounts.CheckName(u.Name); err != nil {
				return err
			}
			file, err := openAccounts(cmd, f, true)
			if err != nil {
				return err
			}
			if !noPassword {
				password, err := askPassword(cmd)
				if err != nil {
					return err
				}
				u.Hash = accounts.Hash(password)
			}
			if err := addAccount(cmd, file, u); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s may now connect: %s\n", u.Name, strings.Join(u.Allow, ", "))
			return err
		},
	}
	cmd.Flags().StringArrayVar(&allow, "allow", nil, "a rule such as 'tele/#:r'; may be given again (default everything)")
	cmd.Flags().BoolVar(&noPassword, "no-password", false, "let the user in with a client certificate only")
	return cmd
}

// changeUser changes one account.
func changeUser(cmd *cobra.Command, f *flags, name string, change func(*accounts.User) error) error {
	file, err := openAccounts(cmd, f, false)
	if err != nil {
		return err
	}
	return file.Update(func(users []accounts.User) ([]accounts.User, error) {
		i, err := accounts.Find(users, name)
		if err != nil {
			return nil, err
		}
		return users, change(&users[i])
	})
}

func userPasswd(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "passwd NAME",
		Short: "Change a user's password; connections with the old one are cut off",
		Args:  needs("NAME", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			password, err := askPassword(cmd)
			if err != nil {
				return err
			}
			return changeUser(cmd, f, args[0], func(u *accounts.User) error {
				u.Hash = accounts.Hash(password)
				return nil
			})
		},
	}
}

func userAllow(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "allow NAME [RULE...]",
		Short: "Replace what a user or a device may do; without rules, nothing",
		Args:  needs("NAME", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			rules, err := accounts.ParseRules(args[1:])
			if err != nil {
				return err
			}
			return changeUser(cmd, f, args[0], func(u *accounts.User) error {
				u.Allow = rules.Strings()
				return nil
			})
		},
	}
}

func userRemove(f *flags, what string) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove a " + what + ", and cut its connections off",
		Args:  needs("NAME", true),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := openAccounts(cmd, f, false)
			if err != nil {
				return err
			}
			return file.Update(func(users []accounts.User) ([]accounts.User, error) {
				for _, name := range args {
					i, err := accounts.Find(users, name)
					if err != nil {
						return nil, err
					}
					if users[i].IsDevice() != (what == "device") {
						return nil, fmt.Errorf("%s is not a %s; nothing was removed; see \"%[3]s user list\" and \"%[3]s device list\"", name, what, cmd.Root().Name())
					}
					users = slices.Delete(users, i, i+1)
				}
				return users, nil
			})
		},
	}
}

func accountList(f *flags, what string) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the " + what + "s and what each may do",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := openAccounts(cmd, f, false)
			if err != nil {
				return err
			}
			users, err := file.Load()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 3, ' ', 0)
			n := 0
			for _, u := range users {
				if u.IsDevice() == (what == "device") {
					n++
					allowed := strings.Join(u.Allow, ", ")
					if allowed == "" {
						allowed = "nothing"
					}
					fmt.Fprintf(w, "%s\t%s\n", u.Name, allowed)
				}
			}
			if n == 0 {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "there are no %ss\n", what)
				return err
			}
			return w.Flush()
		},
	}
}

func userImport(f *flags) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Import users from a Mosquitto password file or Home Assistant's auth_provider.homeassistant",
		Args:  needs("FILE", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := file.Read(args[0], maxImport)
			if err != nil {
				return fmt.Errorf("read users: %w", err)
			}
			found, skipped, err := accounts.Import(text)
			if err != nil {
				return err
			}
			for _, why := range skipped {
				fmt.Fprintf(cmd.ErrOrStderr(), "skipped: %s\n", why)
			}
			file, err := openAccounts(cmd, f, true)
			if err != nil {
				return err
			}
			added := 0
			err = file.Update(func(users []accounts.User) ([]accounts.User, error) {
				for _, u := range found {
					if _, err := accounts.Find(users, u.Name); err == nil {
						fmt.Fprintf(cmd.ErrOrStderr(), "skipped: %s is there already\n", u.Name)
						continue
					}
					users = append(users, u)
					added++
				}
				return users, nil
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s imported; imported users may do everything, see \"%s user allow\"\n", counted(added, "user"), cmd.Root().Name())
			return err
		},
	}
}

// askPassword asks twice on a terminal and reads a line elsewhere.
func askPassword(cmd *cobra.Command) (string, error) {
	in, isFile := cmd.InOrStdin().(*os.File)
	if !isFile || !term.IsTerminal(int(in.Fd())) {
		line, err := bufio.NewReader(io.LimitReader(cmd.InOrStdin(), 64<<10)).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read the password: %w", err)
		}
		return checkPassword(strings.TrimRight(line, "\r\n"))
	}
	ask := func(prompt string) (string, error) {
		fmt.Fprint(cmd.ErrOrStderr(), prompt)
		text, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(cmd.ErrOrStderr())
		return string(text), err
	}
	first, err := ask("Password: ")
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	second, err := ask("Again: ")
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if first != second {
		return "", errors.New("the two are not the same; nothing was changed")
	}
	return checkPassword(first)
}

func checkPassword(password string) (string, error) {
	const least = 8
	if len(password) < least {
		return "", fmt.Errorf("the password has fewer than %d characters; nothing was changed", least)
	}
	return password, nil
}
