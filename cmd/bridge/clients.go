package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"event2mqtt/internal/api"
	"event2mqtt/internal/apiclient"
)

// clientList is who is connected to the bundled broker.
type clientList struct {
	Clients  []api.Client  `json:"clients"`
	Accounts []api.Account `json:"accounts"`
}

func clients(ctx context.Context, c *apiclient.Client) (list clientList, err error) {
	err = c.Get(ctx, "clients", &list)
	return list, err
}

// clientsCommand looks after clients of the bundled broker.
func clientsCommand(f *flags) *cobra.Command {
	a := &asking{flags: f}
	cmd := a.command(&cobra.Command{
		Use:   "clients",
		Short: "List the clients of the bundled broker, or end a connection",
		Long: `Lists the clients that are connected to the bundled broker: their ids, users,
addresses and subscriptions, and how many messages wait for each.`,
		Example: "  event2mqtt clients\n  event2mqtt clients --json | jq '.clients[].id'\n  event2mqtt clients kick kitchen-abc123",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			list, err := clients(cmd.Context(), c)
			if err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return printClients(cmd, list.Clients)
		},
	})
	cmd.AddCommand(clientsKick(f))
	return cmd
}

func printClients(cmd *cobra.Command, list []api.Client) error {
	out := cmd.OutOrStdout()
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "no client is connected")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "CLIENT ID\tUSER\tADDRESS\tMQTT\tSESSION\tSINCE\tQUEUE\tSUBSCRIPTIONS")
	for _, one := range list {
		const few = 3
		names := make([]string, 0, few)
		for _, filter := range one.Subscriptions[:min(len(one.Subscriptions), few)] {
			names = append(names, shown(filter))
		}
		filters := strings.Join(names, ", ")
		if more := one.Filters - len(names); more > 0 {
			filters += fmt.Sprintf(" and %d more", more)
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", orDash(one.ID), orDash(one.User), orDash(one.Address), shown(one.Protocol), shown(one.Session), moment(one.Since.Time), one.Queue, orDash(filters))
	}
	return table.Flush()
}

// orDash is a text from outside in a table, in which no column is empty.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return shown(text)
}

func clientsKick(f *flags) *cobra.Command {
	a := &asking{flags: f}
	var user string
	cmd := a.command(&cobra.Command{
		Use:   "kick ID",
		Short: "End a client's connection",
		Long: `Ends the connection of a client. Most clients connect again by themselves; to keep
one out, remove its account with "event2mqtt user remove" or "device remove".`,
		Example: "  event2mqtt clients kick kitchen-abc123",
		Args:    needs("ID", false),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "" {
				return misused("ID is empty: which client? \"%s clients\" lists them", cmd.Root().Name())
			}
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			path := with("clients/"+url.PathEscape(args[0]), url.Values{"user": {user}})
			if _, err := c.Do(cmd.Context(), http.MethodDelete, path, nil, nil, 0); err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), map[string]string{"kicked": args[0]})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the connection of %s is ended\n", shown(args[0]))
			return err
		},
	})
	cmd.Flags().StringVar(&user, "user", "", "only the client of this user, if several use the same id")
	cmd.ValidArgsFunction = first(a.complete(clientNames))
	return cmd
}
