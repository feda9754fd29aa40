package parity

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

func namespace(namespaces ...specs.LinuxNamespace) func(*harness.ContainerConfig) {
	return edited(func(spec *specs.Spec) { spec.Linux.Namespaces = append(spec.Linux.Namespaces, namespaces...) })
}

// users is a user namespace whose root is nobody on the host.
var users = edited(func(spec *specs.Spec) {
	spec.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	spec.Linux.GIDMappings = spec.Linux.UIDMappings
})

// openTo lets the root of a user namespace find its root filesystem.
func (c *container) openTo(user int) {
	c.p.Helper()
	for dir := c.record.RootFS; dir != c.p.world.daemon.Dir; dir = filepath.Dir(dir) {
		c.p.must(os.Chmod(dir, 0o755))
	}
	c.p.must(os.Chown(c.record.RootFS, user, user))
}

// cgroupsPath has what the kubelet and docker give with the systemd driver.
func cgroupsPath(path string) func(*harness.ContainerConfig) {
	return edited(func(spec *specs.Spec) { spec.Linux.CgroupsPath = path })
}

func (p *program) options(edit func(*runcoptions.Options)) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) {
		options := p.world.options()
		edit(options)
		config.Options = options
	}
}

func systemd(o *runcoptions.Options) { o.SystemdCgroup = true }

// live is a container's usual life, with any beginning.
func (c *container) live() {
	c.p.Helper()
	if !c.create() {
		return
	}
	if c.start() {
		c.settled()
		if c.exec("e", command(exits("3")...)) { // Start of an exec in what has just ended fails in one of two ways
			if c.start("e") {
				c.wait("e")
			}
			c.delete("e")
		}
		c.state()
		c.kill(syscall.SIGTERM)
		c.wait()
	}
	c.delete()
}

var namespaceScenarios = []scenario{
	{name: "user namespace", about: "a life in a user namespace, with FIFOs that belong to its root (IoUid, IoGid)", program: func(p *program) {
		c := p.container("a", obedient, users, namespace(specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace}))
		c.openTo(100000)
		c.live()
		p.note("signals: %q", c.read("signals"))
		out := p.fifo("out")
		p.must(os.Chmod(p.dir, 0o755))
		p.must(os.Chown(out, 100000, 100000))
		stdout := p.reader(out)
		d := p.container("b", speaks, users, namespace(specs.LinuxNamespace{Type: specs.UserNamespace}, specs.LinuxNamespace{Type: specs.NetworkNamespace}),
			p.options(func(o *runcoptions.Options) { o.IoUid, o.IoGid = 100000, 100000 }))
		d.openTo(100000)
		if d.create(streams{out: out}) {
			d.start()
			d.wait()
			d.delete()
			p.note("stdout %q", stdout())
		}
	}},
	{name: "user namespace that cannot be", about: "the same without a mapping", program: func(p *program) {
		p.container("a", obedient, namespace(specs.LinuxNamespace{Type: specs.UserNamespace})).live()
	}},
	{name: "host pid namespace", about: "a life in the host's pid namespace: what init leaves behind is ended with it", program: func(p *program) {
		c := p.container("a", []string{"/bin/sh", "-c", "sleep 1000 & trap 'exit 7' TERM; : > /ready; while :; do wait; done"}, hostPID)
		c.live()
	}},
	{name: "shared pid namespace", about: "a container in another one's pid namespace, as in a pod with shareProcessNamespace: either ends first", program: func(p *program) {
		for _, first := range []string{"owner", "guest"} {
			owner := p.run("owner-"+first, obedient)
			owner.ready()
			guest := p.container("guest-"+first, obedient, hostPID, namespace(specs.LinuxNamespace{
				Type: specs.PIDNamespace, Path: fmt.Sprintf("/proc/%d/ns/pid", owner.pid()),
			}))
			guest.create()
			guest.start()
			guest.ready()
			owner.pids()
			if first == "guest" {
				guest.kill(syscall.SIGTERM)
				guest.wait()
				guest.delete()
				owner.state()
			}
			owner.kill(syscall.SIGTERM)
			owner.wait()
			if first == "owner" {
				guest.wait()
				guest.state()
				guest.delete()
			}
			owner.delete()
		}
	}},
	{name: "networks", about: "a life on the host's network, in its own network, and in another container's", program: func(p *program) {
		p.container("host", obedient).live()
		own := p.container("own", obedient, namespace(specs.LinuxNamespace{Type: specs.NetworkNamespace}))
		own.create()
		own.start()
		own.ready()
		p.container("shared", obedient, namespace(specs.LinuxNamespace{
			Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/ns/net", own.pid()),
		})).live()
		p.container("none", obedient, namespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/run/netns/none"})).live()
	}},
	{name: "read-only and confined", about: "a life with a read-only root, no capabilities, another user and a seccomp profile", program: func(p *program) {
		c := p.container("a", []string{"/bin/sh", "-c", "trap 'exit 7' TERM; : > /dev/shm/ready; sleep 1000 & while :; do wait; done"}, func(config *harness.ContainerConfig) {
			config.ReadOnly, config.User, config.Capabilities = true, specs.User{UID: 1000, GID: 1000}, []string{}
			config.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
			}
		})
		c.create()
		c.start()
		c.exec("e", in("mkdir /dev/shm/x && exit 1; while [ ! -e /dev/shm/ready ]; do sleep 0.02; done; exit 3"))
		c.start("e")
		c.wait("e")
		c.kill(syscall.SIGTERM)
		c.wait()
		c.delete()
	}},
	{name: "systemd cgroups", about: "SystemdCgroup with a path of systemd's form, and with another one: both fail on a machine without systemd", program: func(p *program) {
		p.container("slice", obedient, p.options(systemd), cgroupsPath("system.slice:lcs:"+p.id("slice"))).live()
		p.container("nested", obedient, p.options(systemd), cgroupsPath("lcs-a.slice:lcs:"+p.id("nested"))).live()
		p.container("path", obedient, p.options(systemd)).live()
		p.container("odd", obedient, p.options(systemd), cgroupsPath("a:b")).live()
	}},
	{name: "cgroup paths", about: "systemd's form with options that say cgroupfs, a relative path, none", program: func(p *program) {
		p.container("slice", obedient, cgroupsPath("system.slice:"+ownName+":"+p.id("slice"))).live()
		p.container("relative", obedient, cgroupsPath(ownName+"-"+p.id("relative"))).live()
	}},
	{name: "no options", about: "none, as docker and nerdctl send it for a runtime type that they do not know: runc in its default root", only: runcOnly, program: func(p *program) {
		p.container("a", obedient, func(config *harness.ContainerConfig) { config.Options = harness.NoOptions{} }).live()
	}},
	{name: "no options, systemd cgroups", about: "a path of systemd's form without any options", only: runcOnly, program: func(p *program) {
		p.container("a", obedient, func(config *harness.ContainerConfig) { config.Options = harness.NoOptions{} }, cgroupsPath("system.slice:"+ownName+":"+p.id("a"))).live()
	}},
}

// pid of the container's process.
func (c *container) pid() uint32 {
	c.p.Helper()
	state, err := c.record.State(c.p.Context())
	c.p.must(err)
	return state.PID
}
