package task

import (
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
)

// ownCgroups lets the container manage the cgroups below its own.
var ownCgroups = bed.EditSpec(func(spec *specs.Spec) {
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "rw"}})
})

// A container that manages cgroups, as systemd or docker in one do, moves its process into a cgroup below its own, and on v2 hands
// controllers down: from then on the kernel lets no process into the container's own cgroup (cgroups(7), "no internal processes"). Its
// handlers run all the same, with its limits, and nothing stays of what it has made.
func TestHandlerOfContainerThatManagesCgroups(t *testing.T) {
	bed.On(t, []bed.Target{bed.Pinned, bed.Crun}, func(b *bed.Bench) {
		manage := `cd /sys/fs/cgroup; [ -e cgroup.controllers ] || cd memory
			mkdir inner && echo 1 > inner/cgroup.procs || exit 1
			[ ! -e cgroup.subtree_control ] || echo +memory +pids > cgroup.subtree_control || exit 2
			trap 'exit 7' TERM; touch /ready; sleep 1000 & while :; do wait; done`
		c := b.Start(bed.Annotations{bed.KeyPreStop: bed.Shell("cat /proc/self/cgroup > /handler")}, []string{"/bin/sh", "-c", manage}, ownCgroups, bed.LimitPids(64))
		c.WaitFor("ready")
		c.Signal(syscall.SIGTERM)
		c.WantExit(7)
		c.WantEnd("preStop", "result=Succeeded")
		// A path above the root of the cgroup namespace would begin with "/..".
		if got := c.Read("handler"); strings.Contains(got, ":/..") || !strings.Contains(got, "\n") {
			b.Errorf("the handler is in the cgroups\n%s", got)
		}
		c.DeleteTask()
	})
}
