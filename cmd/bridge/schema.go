package main

import (
	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
)

// schemaCommand prints what editors need to complete and check files.
func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration, with which editors complete keys and mark errors",
		Long: `Prints the JSON Schema of the configuration. Save it, and let the first line of
the configuration name it:

  # yaml-language-server: $schema=/etc/event2mqtt/config.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := cmd.OutOrStdout().Write(bridge.Schema())
			return err
		},
	}
}
