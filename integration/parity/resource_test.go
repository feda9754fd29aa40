package parity

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

func pointer[T any](value T) *T { return &value }

// begun waits until a handler that begins before the start has come as far as it does.
func (c *container) begun() {
	c.p.Helper()
	if len(c.p.side.annotations) == 0 {
		return
	}
	c.p.poll("a handler that waits for the start", func() bool {
		return slices.ContainsFunc(strings.Fields(c.cgroup("pids", "cgroup.procs")), func(pid string) bool {
			return strings.HasPrefix(text("/proc/"+pid+"/syscall"), fmt.Sprint(unix.SYS_SENDMSG)+" ")
		})
	})
}

// limits of memory in bytes, and of processes.
func limits(memory, pids int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids}}
}

func limited(memory, pids int64) func(*specs.Spec) {
	return func(spec *specs.Spec) {
		l := limits(memory, pids)
		spec.Linux.Resources.Memory, spec.Linux.Resources.Pids = l.Memory, l.Pids
	}
}

var resourceScenarios = []scenario{
	{name: "pids", about: "Pids of a container with children and an exec: created, running, paused, exited", program: func(p *program) {
		c := p.container("a", children)
		c.create()
		c.begun()
		c.pids()
		c.start()
		c.ready()
		c.exec("e", in(": > /e; exec sleep 1000"))
		c.start("e")
		c.ready("e")
		c.pids()
		c.pause()
		c.pids()
		c.resume()
		c.kill(syscall.SIGKILL)
		c.wait()
		c.pids()
	}},
	{name: "stats", about: "Stats and its fields: created, running, paused, exited", program: func(p *program) {
		c := p.container("a", sleeper, edited(limited(64<<20, 100)))
		c.create()
		c.stats()
		c.start()
		c.ready()
		c.stats()
		c.pause()
		c.stats()
		c.resume()
		c.kill(syscall.SIGKILL)
		c.wait()
		c.stats()
	}},
	{name: "update", about: "Update of a running container, as the kernel has it then; of a created one; with resources that make no sense", program: func(p *program) {
		c := p.container("a", sleeper, edited(limited(64<<20, 100)))
		c.create()
		c.update(limits(65<<20, 101))
		c.stats()
		c.start()
		c.ready()
		c.update(limits(66<<20, 102))
		c.stats()
		p.note("in the cgroup: %s, %s", c.cgroup("memory", "memory.limit_in_bytes"), c.cgroup("pids", "pids.max"))
		c.update(&specs.LinuxResources{})
		c.update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "4000-4001"}})
		c.update(&runcoptions.Options{})
		c.state()
		c.kill(syscall.SIGKILL)
		c.wait()
		c.update(limits(66<<20, 102))
	}},
	{name: "pause and resume", about: "both, each twice, with State between; SIGKILL to a paused container", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.resume()
		c.pause()
		c.await("/tasks/paused")
		c.state()
		c.pause()
		c.delete()
		c.start()
		c.resume()
		c.state()
		c.pause()
		c.kill(syscall.SIGKILL)
		c.thaw()
		c.wait()
		c.pause()
		c.resume()
		c.delete()
	}},
	{name: "pause created", about: "Pause and Resume before Start", program: func(p *program) {
		c := p.container("a", sleeper)
		c.create()
		c.pause()
		c.state()
		c.resume()
		c.start()
		c.state()
	}},
	{name: "signal a paused container", about: "SIGTERM, which arrives at Resume", program: func(p *program) {
		c := p.run("a", obedient)
		c.ready()
		c.pause()
		c.kill(syscall.SIGTERM)
		c.state()
		c.resume()
		c.wait()
		c.delete()
		p.note("signals: %q", c.read("signals"))
	}},
	{name: "out of memory", about: "TaskOOM, then TaskExit with 137", program: func(p *program) {
		c := p.run("a", []string{"/bin/sh", "-c", hungry("exec ")}, edited(noSwap))
		c.touch("go")
		c.await("/tasks/oom")
		c.wait()
		c.delete()
	}},
	{name: "out of memory in a child", about: "TaskOOM of a container that continues", program: func(p *program) {
		c := p.run("a", []string{"/bin/sh", "-c", hungry("") + "; : > /survived; sleep 1000"}, edited(noSwap))
		c.touch("go")
		c.await("/tasks/oom")
		c.ready("survived")
		c.state()
	}},
}

// hungry is a program that needs more memory than there is, on request: an older shim does not watch before Start has
// been answered.
func hungry(how string) string {
	return "while [ ! -e /go ]; do sleep 0.02; done; " + how + "dd if=/dev/zero of=/dev/null bs=200M count=1"
}

func noSwap(spec *specs.Spec) {
	limited(16<<20, 100)(spec)
	spec.Linux.Resources.Memory.Swap = pointer(int64(16 << 20))
}

// thaw lets a process die that was killed while it was frozen. Some runtimes do that by themselves, so that this is in a race
// with the end, and not written down.
func (c *container) thaw() {
	_, _ = c.api.do(c.p.Context(), &taskapi.ResumeRequest{ID: c.id})
}

// frozen waits until a container that was paused is. runc's pause does so. crun's does not, and on cgroup v1 its exec takes
// one that the kernel is still freezing for one that runs (libcrun_cgroup_is_container_paused asks for FROZEN), and is
// frozen with it. On v2 it asks for what the pause has written.
func (c *container) frozen() {
	c.p.Helper()
	if harness.CgroupV2() {
		return
	}
	c.p.poll("the freezer of "+c.id, func() bool { return c.cgroup("freezer", "freezer.state") == "FROZEN" })
}

// cgroup reads a file of the container's cgroup, of version 1 or 2.
func (c *container) cgroup(controller, file string) string {
	path := filepath.Join("/sys/fs/cgroup", controller, c.config.CgroupParent, c.id, file)
	if harness.CgroupV2() {
		file = strings.Replace(file, "memory.limit_in_bytes", "memory.max", 1)
		path = filepath.Join("/sys/fs/cgroup", c.config.CgroupParent, c.id, file)
	}
	return strings.TrimSpace(text(path))
}
