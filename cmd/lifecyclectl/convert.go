package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/convert"
)

func newConvert() *cobra.Command {
	m := &manifests{}
	command := &cobra.Command{
		Use:   "convert -f FILE|DIRECTORY|- [-f …]",
		Short: "Move the lifecycle handlers of manifests into annotations of this shim",
		Long: `Move the lifecycle handlers of manifests into annotations of this shim.

The manifests come out as they went in, but for pods and pod templates (of Deployments, StatefulSets, DaemonSets,
ReplicaSets, ReplicationControllers, Jobs, CronJobs; of other kinds with containers at spec.template.spec; in lists too) with a postStart or preStop handler: each container's
handlers are moved into the annotation <container>.lifecycle-shim.io/lifecycle, so that the kubelet does not run them too,
with named ports as numbers and the pod's terminationGracePeriodSeconds; and runtimeClassName is set.
The preStop of a sidecar stays with the kubelet, unless the pod has the annotation lifecycle-shim.io/sidecars: Move; pods of
another RuntimeClass, and those for Windows, stay as they are.
Only the bytes of what moves change: comments, layout and quoting stay, and documents without handlers pass byte for byte.
Converting twice changes nothing.

Manifests go to stdout, in YAML or JSON as they were; warnings and refusals go to stderr, with file and line. If anything is refused, nothing is written
to stdout, and the exit status is 1.`,
		Example: `  lifecyclectl convert -f pod.yaml | kubectl apply -f -
  helm template web ./chart | lifecyclectl convert -f - > web.yaml
  lifecyclectl convert -R -f manifests/ --runtime-class my-lifecycle`,
		Args:   cobra.NoArgs,
		PreRun: endAtSignals,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := m.read(cmd.InOrStdin())
			if err != nil {
				return err
			}
			refusals := 0
			var results [][]byte
			for _, file := range files {
				result, report := convert.Stream(file.data, m.runtimeClass, m.podPaths...)
				say(cmd.ErrOrStderr(), "warning: ", file.name, report.Warnings)
				say(cmd.ErrOrStderr(), "", file.name, report.Refusals)
				refusals += len(report.Refusals)
				results = append(results, result)
			}
			if refusals > 0 {
				return fmt.Errorf("nothing is converted: %s above", counted(refusals, "refusal"))
			}
			_, err = cmd.OutOrStdout().Write(convert.Join(results))
			return err
		},
	}
	m.addFlags(command)
	return command
}
