package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
)

// newMan writes the manual pages, one for each command. It is hidden, because only
// installers use it. The pages have the date of SOURCE_DATE_EPOCH, or today's.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIRECTORY",
		Short:  "Write the manual pages into a directory",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			root.DisableAutoGenTag = true
			// The defaults come from this machine's environment, so the pages leave them out.
			root.PersistentFlags().VisitAll(func(flag *pflag.Flag) { flag.DefValue = "" })
			// The help of completion is better than a page.
			if completion, _, err := root.Find([]string{"completion"}); err == nil {
				completion.Hidden = true
			}
			if info, err := os.Stat(args[0]); err != nil || !info.IsDir() {
				return fmt.Errorf("cannot write the manual pages: %s is not a directory; create it first", args[0])
			}
			return doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "lifecycle-shim " + root.Version, Manual: "lifecycle-shim"}, args[0])
		},
	}
}
