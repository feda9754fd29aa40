package harness

import (
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// specVersion is what every spec claims: crun 1.8.1 refuses 1.3, and nothing newer is used.
const specVersion = "1.0.2"

// spec is a plain OCI spec: private pid, mount, ipc and uts namespaces, the host's network (no CNI needed),
// and else what docker's defaults are.
func (c ContainerConfig) spec() *specs.Spec {
	s := &specs.Spec{
		Version:     specVersion,
		Root:        &specs.Root{Path: c.RootFS, Readonly: c.ReadOnly},
		Hostname:    "lcs",
		Annotations: c.Annotations,
		Mounts:      defaultMounts(),
		Process: &specs.Process{
			Args:            c.Args,
			Env:             append([]string{"PATH=/bin", "HOME=/root"}, c.Env...),
			Cwd:             "/",
			User:            c.User,
			Terminal:        c.Terminal,
			NoNewPrivileges: true,
			Capabilities:    capabilities(c.Capabilities, c.User.UID),
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 1024}},
		},
		Linux: &specs.Linux{
			CgroupsPath: filepath.Join(c.cgroupParent(), c.ID),
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}},
			Seccomp:     c.Seccomp,
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, // the runtime allows the usual ones
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/timer_list", "/proc/sched_debug", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	if !c.HostPID {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if c.Edit != nil {
		c.Edit(s)
	}
	return s
}

func defaultMounts() []specs.Mount {
	nodev := []string{"nosuid", "noexec", "nodev"}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: nodev},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{
			Destination: "/dev/pts", Type: "devpts", Source: "devpts",
			Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
		},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: append(nodev, "mode=1777", "size=65536k")},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: nodev},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: append(nodev, "ro")},
	}
}

// capabilities are docker's default set unless others are named. A user other than root gets them in the
// bounding set only, as docker and CRI do it.
func capabilities(names []string, uid uint32) *specs.LinuxCapabilities {
	if names == nil {
		names = []string{
			"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
			"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
		}
	}
	caps := &specs.LinuxCapabilities{Bounding: names}
	if uid == 0 {
		caps.Effective, caps.Permitted = names, names
	}
	return caps
}
