package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/lifecyclectl/doctor"
)

// These commands are for deploy/node/install, so that only package trust decides which
// processes and files are trusted. They are hidden.

func newNodeContainerds() *cobra.Command {
	return &cobra.Command{
		Use:    "node-containerds",
		Short:  "Print the containerds of this node: pid, program and configuration, separated by tabs",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := doctor.Daemons()
			for _, daemon := range found {
				if err := printFields(cmd.OutOrStdout(), daemon.PID, daemon.Program, daemon.Config); err != nil {
					return err
				}
			}
			return err
		},
	}
}

func newNodeShims() *cobra.Command {
	return &cobra.Command{
		Use:    "node-shims",
		Short:  "Print the shims of this node: pid and program, separated by tabs",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := trust.Find(isShim)
			for _, process := range found {
				if err := printFields(cmd.OutOrStdout(), process.PID, process.Executable); err != nil {
					return err
				}
			}
			return err
		},
	}
}

// printFields refuses paths that would look like other fields or lines.
func printFields(out io.Writer, pid int, paths ...string) error {
	for _, path := range paths {
		if strings.ContainsAny(path, "\t\n\r") {
			return fmt.Errorf("cannot print process %d: %q contains a tab or a line break", pid, path)
		}
	}
	_, err := fmt.Fprintf(out, "%d\t%s\n", pid, strings.Join(paths, "\t"))
	return err
}

func newTrusted() *cobra.Command {
	var place bool
	command := &cobra.Command{
		Use:   "trusted FILE",
		Short: "Check that only root can change a program",
		Long: `Check that only root can change a program, and the directories above it.

If others can, it prints the file or directory that they can change, reports the reason on stderr, and fails.`,
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if place {
				err = trust.Place(args[0])
			} else {
				_, err = trust.Program(args[0])
			}
			var culprit *trust.Culprit
			if errors.As(err, &culprit) {
				fmt.Fprintln(cmd.OutOrStdout(), culprit.Path)
			}
			return err
		},
	}
	command.Flags().BoolVar(&place, "place", false, "FILE is a configuration that may not exist yet, a path without links")
	return command
}
