package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/convert"
)

func newValidate() *cobra.Command {
	m := &manifests{}
	command := &cobra.Command{
		Use:   "validate -f FILE|DIRECTORY|- [-f …]",
		Short: "Check annotations as the shim does",
		Long: `Check annotations as the shim does.

A file may hold manifests (pods, pod templates, lists of them), an OCI spec (a bundle's config.json; the bundle's directory is
accepted too), a mapping of annotations, or a single lifecycle block. What was checked goes to stdout. Warnings and problems go to stderr, each as
FILE:LINE: kind/name: container: field: problem. All problems are reported, not only the first. If there are any, the exit status is 1.
A file without anything to check is not a problem.`,
		Example: `  lifecyclectl validate -f pod.yaml
  echo '{preStop: {sleep: {seconds: 5}}}' | lifecyclectl validate -f -
  lifecyclectl validate -f /run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json`,
		Args:   cobra.NoArgs,
		PreRun: endAtSignals,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for i, name := range m.names {
				m.names[i] = specOf(name)
			}
			files, err := m.read(cmd.InOrStdin())
			if err != nil {
				return err
			}
			problems, checked := 0, 0
			for _, file := range files {
				report := convert.Validate(file.data, m.rules, m.podPaths...)
				say(outOf(cmd), "", file.name, report.Checked)
				say(cmd.ErrOrStderr(), "warning: ", file.name, report.Warnings)
				say(cmd.ErrOrStderr(), "", file.name, report.Refusals)
				problems += len(report.Refusals)
				checked += len(report.Checked)
			}
			if problems > 0 {
				return fmt.Errorf("the shim would refuse this: see the %s above", counted(problems, "problem"))
			}
			if checked == 0 {
				fmt.Fprintln(outOf(cmd), "nothing to check: no pod, pod template, OCI spec, annotations or block")
			}
			return nil
		},
	}
	m.addFlags(command)
	return command
}

// specOf returns the path of a bundle's spec if name is a bundle's directory.
func specOf(name string) string {
	spec := filepath.Join(name, "config.json")
	if _, err := os.Stat(spec); err == nil {
		return spec
	}
	return name
}
