package bed

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// LimitPids lets the container have that many processes and threads.
func LimitPids(pids int64) func(*harness.ContainerConfig) {
	return EditSpec(func(spec *specs.Spec) { spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids} })
}

// EditSpec adds to what the configuration's Edit does.
func EditSpec(edit func(*specs.Spec)) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) {
		before := config.Edit
		config.Edit = func(spec *specs.Spec) {
			if before != nil {
				before(spec)
			}
			edit(spec)
		}
	}
}

// HostPID gives the container the machine's pid namespace.
func HostPID(config *harness.ContainerConfig) { config.HostPID = true }

// WithOptions adds lines of TOML to the options that the shim gets.
func WithOptions(b *Bench, more string) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) { config.Options = b.Options(more) }
}

// OwnUsers gives the container a user namespace.
var OwnUsers = EditSpec(func(spec *specs.Spec) {
	spec.Linux.Namespaces = append(spec.Linux.Namespaces,
		specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	spec.Linux.GIDMappings = spec.Linux.UIDMappings
})
