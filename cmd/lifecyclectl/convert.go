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
		Short: "Move the lifecycle handlers of manifests into annotations of lifecycle-shim",
		Long: `Move the lifecycle handlers of manifests into annotations of lifecycle-shim.

It changes pods and pod templates that have a postStart or preStop handler: pods, Deployments, StatefulSets, DaemonSets, ReplicaSets,
ReplicationControllers, Jobs, CronJobs, other kinds with containers at spec.template.spec, and lists of these. It moves each container's handlers
into the annotation <container>.lifecycle-shim.io/lifecycle, so that the kubelet does not run them too. Named ports become numbers, and
the pod's terminationGracePeriodSeconds is added. It sets runtimeClassName.
The preStop of a sidecar stays with the kubelet, unless the pod has the annotation lifecycle-shim.io/sidecars: Move. Pods of
another RuntimeClass and pods for Windows are not changed.
Only the text of what moves changes: comments, layout and quoting stay, and documents without handlers are copied byte for byte.
Converting twice changes nothing.

Manifests go to stdout, in YAML or JSON like the input. Warnings and refusals go to stderr, with file and line. If anything is refused, nothing is
written to stdout, and the exit status is 1.`,
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
				result, report := convert.Stream(file.data, m.rules, m.podPaths...)
				say(cmd.ErrOrStderr(), "warning: ", file.name, report.Warnings)
				say(cmd.ErrOrStderr(), "", file.name, report.Refusals)
				refusals += len(report.Refusals)
				results = append(results, result)
			}
			if refusals > 0 {
				return fmt.Errorf("cannot convert the manifests, nothing is written: see the %s above", counted(refusals, "refusal"))
			}
			_, err = cmd.OutOrStdout().Write(convert.Join(results))
			return err
		},
	}
	m.addFlags(command)
	return command
}
