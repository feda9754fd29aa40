package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// newMan writes the pages of the manual, one for each command. It is for those
// who install, so it is hidden. The pages bear the date of SOURCE_DATE_EPOCH, or
// today's.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY",
		Short:  "Write the manual's pages into a directory",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			root.DisableAutoGenTag = true
			// What the environment says here is no default of anybody else's.
			root.PersistentFlags().VisitAll(func(flag *pflag.Flag) { flag.DefValue = "" })
			// How to get completions is told by their own help, at more length than a page.
			if completion, _, err := root.Find([]string{"completion"}); err == nil {
				completion.Hidden = true
			}
			if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
				return fmt.Errorf("%s is no directory: make it first", args[0])
			}
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "lifecycle-shim " + root.Version, Manual: "lifecycle-shim"}, args[0])
		},
	}
}
