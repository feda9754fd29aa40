package bed

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// Group is a shim with one container, the bystander, which must not notice what its neighbours in the group do.
type Group struct {
	B           *Bench
	Bystander   *Container
	Shim        harness.Process
	descriptors int
	memory      int
}

// NewGroup starts a shim with a bystander. Containers with the edit Member join it.
func (b *Bench) NewGroup() *Group {
	b.Helper()
	p := &Group{B: b}
	p.Bystander = b.Start(Annotations{KeyPreStop: Shell("touch /stopped")}, Obedient, p.Member)
	p.Bystander.WaitFor("ready")
	shims, err := b.Daemon.Shims()
	if err != nil || len(shims) != 1 {
		b.Fatalf("shims %v, %v, want the pod's alone", shims, err)
	}
	p.Shim = shims[0]
	p.descriptors, p.memory = p.look()
	return p
}

// Member is the edit that puts a container into the group.
func (p *Group) Member(config *harness.ContainerConfig) {
	annotations := maps.Clone(config.Annotations)
	annotations[KeyGroup] = "pod"
	config.Annotations = annotations
}

// look returns how many descriptors the shim has, and its peak memory in KiB (VmHWM of proc_pid_status(5)). Pidfds do not count: Go's own, of every runc that has
// ended, are closed at a garbage collection, under the stock shim too. Nor do eventfds:
// on cgroup v1 containerd's watcher of OOM events (pkg/oom/v1, process) keeps the one of a
// container whose memory cgroup is gone a moment before the others, which depends on the load.
func (p *Group) look() (descriptors, memory int) {
	p.B.Helper()
	open, err := p.Shim.Descriptors()
	if err != nil {
		p.B.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Shim.PID))
	if err != nil {
		p.B.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); fields[0] == "VmHWM:" {
			if memory, err = strconv.Atoi(fields[1]); err != nil {
				p.B.Fatal(err)
			}
		}
	}
	open = slices.DeleteFunc(open, func(link string) bool {
		return strings.HasSuffix(link, "[pidfd]") || strings.HasSuffix(link, "[eventfd]")
	})
	return len(open), memory
}

// WantUnharmed checks the shim and the bystander after the neighbours have been deleted.
func (p *Group) WantUnharmed() {
	p.B.Helper()
	const growth = 64 << 10 // KiB: a second of output that is kept would be ten times as much
	p.B.Poll("the shim's descriptors to be closed", func() bool { now, _ := p.look(); return now <= p.descriptors })
	if _, memory := p.look(); memory > p.memory+growth {
		p.B.Errorf("the shim had %d KiB at most before, and has now had %d", p.memory, memory)
	}
	if status := p.B.Exec(p.Bystander, "bystander", "/bin/true"); status != 0 {
		p.B.Errorf("an exec in the bystander ended with %d", status)
	}
	p.Bystander.Signal(syscall.SIGTERM)
	p.Bystander.WantExit(7)
	if !p.Bystander.Exists("stopped") {
		p.B.Error("the bystander's preStop has not run")
	}
}
