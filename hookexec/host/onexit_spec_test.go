package host

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

func fullSpec() *specs.Spec {
	most := int64(32)
	return &specs.Spec{
		Hostname: "h", Domainname: "d", Hooks: &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/x"}}},
		Root: &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			Terminal: true, ConsoleSize: &specs.Box{Height: 1}, Args: []string{"own"}, Env: []string{"A=b"}, Cwd: "/w", NoNewPrivileges: true, ApparmorProfile: "p", SelinuxLabel: "l",
			User: specs.User{UID: 1}, Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}}, Rlimits: []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}},
		},
		Mounts: []specs.Mount{
			{Destination: "/early", Type: "tmpfs"},
			{Destination: "/proc", Type: "proc"},
			{Destination: "/proc/meminfo", Type: "bind", Source: "/lxcfs"},
			{Destination: "/tmp", Type: "tmpfs"},
			{Destination: "/procession", Type: "tmpfs"},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: "/pod"},
				{Type: specs.UserNamespace},
				{Type: specs.TimeNamespace},
			},
			Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}, MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
			NetDevices: map[string]specs.LinuxNetDevice{"x": {}}, TimeOffsets: map[string]specs.LinuxTimeOffset{"x": {}},
			Sysctl: map[string]string{"net.x": "1"}, RootfsPropagation: "shared",
			Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &most}, Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
		},
	}
}

// TestOnExitSpec: an onExit has all of the container's identity and confinement, and the kept namespaces and mounts.
func TestOnExitSpec(t *testing.T) {
	own := fullSpec()
	derived := onExitSpec(own, wire.StartRequest{Args: []string{"its"}, Env: []string{"C=d"}, OnExit: &wire.OnExit{
		Bundle: "/b", Cgroup: "/g/c1", Namespaces: map[string]string{"network": "//n", "user": "//u"},
	}})
	if !reflect.DeepEqual(own, fullSpec()) {
		t.Error("the container's own spec was changed")
	}
	want := fullSpec()
	want.Hostname, want.Domainname, want.Hooks, want.Process.ConsoleSize = "", "", nil, nil
	want.Linux.NetDevices, want.Linux.TimeOffsets = nil, nil
	want.Root.Path = "/b/rootfs"
	want.Process.Terminal, want.Process.Args, want.Process.Env = false, []string{"its"}, []string{"A=b", "C=d"}
	want.Mounts = want.Mounts[1:3]
	want.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.MountNamespace},
		{Type: specs.NetworkNamespace, Path: "//n"},
		{Type: specs.UserNamespace, Path: "//u"},
	}
	want.Linux.Sysctl, want.Linux.RootfsPropagation = nil, ""
	want.Linux.CgroupsPath = "/g/c1/onExit"
	want.Linux.Resources = &specs.LinuxResources{Devices: own.Linux.Resources.Devices}
	if !reflect.DeepEqual(derived, want) {
		t.Errorf("got %+v\n%+v\nwant %+v\n%+v", derived, derived.Linux, want, want.Linux)
	}
}

// TestOnExitCgroupOfSystemd: a scope beside the container's, with all its limits.
func TestOnExitCgroupOfSystemd(t *testing.T) {
	linux := fullSpec().Linux
	setOnExitCgroup(linux, &wire.OnExit{SystemdCgroup: true, Cgroup: "kubepods.slice:cri-containerd:c1"})
	if linux.CgroupsPath != "kubepods.slice:cri-containerd:c1-onexit" || linux.Resources.Memory == nil {
		t.Errorf("got %s, %+v", linux.CgroupsPath, linux.Resources)
	}
}

// TestOnExitCgroupOfAnother: a path that only looks like systemd's, and another path for systemd's driver.
func TestOnExitCgroupOfAnother(t *testing.T) {
	for _, onExit := range []wire.OnExit{{Cgroup: "a:b:c"}, {SystemdCgroup: true, Cgroup: "a"}} {
		linux := fullSpec().Linux
		setOnExitCgroup(linux, &onExit)
		if linux.CgroupsPath != onExit.Cgroup+"/onExit" || linux.Resources.Memory != nil {
			t.Errorf("%+v: got %s, %+v", onExit, linux.CgroupsPath, linux.Resources)
		}
	}
}

// TestKeepDev: the mount keeps its flags. A symbolic link instead of /dev is refused, because it
// may lead out of the container.
func TestKeepDev(t *testing.T) {
	needsRoot(t)
	root := t.TempDir()
	dev, fds := filepath.Join(root, "dev"), descriptors(t)
	spec := &specs.Spec{Root: &specs.Root{Path: root}}
	if err := keepDev(spec); err == nil {
		t.Error("a missing /dev is accepted")
	}
	if err := os.Symlink("/dev", dev); err != nil {
		t.Fatal(err)
	}
	if err := keepDev(spec); err == nil || !strings.Contains(err.Error(), "is not a directory") || len(spec.Mounts) > 0 {
		t.Errorf("a link instead of /dev: %v, %+v", err, spec.Mounts)
	}
	if err := errorsOf(os.Remove(dev), os.Mkdir(dev, 0o700)); err != nil {
		t.Fatal(err)
	}
	for flags, want := range map[uintptr][]string{
		0:              {"rbind"},
		unix.MS_RDONLY: {"rbind", "ro"},
		unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC: {"nodev", "noexec", "nosuid", "rbind"},
	} {
		if err := unix.Mount("tmpfs", dev, "tmpfs", flags, "size=4k"); err != nil {
			t.Fatal(err)
		}
		spec.Mounts = []specs.Mount{{Destination: "/proc"}}
		err := keepDev(spec)
		if unmountErr := unix.Unmount(dev, unix.MNT_DETACH); unmountErr != nil {
			t.Error(unmountErr)
		}
		if err != nil || len(spec.Mounts) != 2 {
			t.Fatalf("%v, %+v", err, spec.Mounts)
		}
		got := spec.Mounts[1]
		slices.Sort(got.Options)
		if !slices.Equal(got.Options, want) || got.Destination != "/dev" || got.Source != dev || got.Type != "bind" {
			t.Errorf("flags %#x: got %+v, want %q", flags, got, want)
		}
	}
	if after := descriptors(t); !slices.Equal(after, fds) {
		t.Errorf("descriptors are %q, before %q", after, fds)
	}
}

// TestOnExitNamespaces: a type that was not kept, because the kernel lacks it, is left out.
func TestOnExitNamespaces(t *testing.T) {
	own := []specs.LinuxNamespace{{Type: specs.TimeNamespace}, {Type: specs.MountNamespace, Path: "/m"}, {Type: specs.PIDNamespace, Path: "/p"}, {Type: specs.IPCNamespace}}
	got := onExitNamespaces(own, map[string]string{"ipc": "//i", "mount": "//m", "pid": "//p"})
	want := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace, Path: "/p"}, {Type: specs.IPCNamespace, Path: "//i"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestOnExitRoot: an absolute root path is not changed.
func TestOnExitRoot(t *testing.T) {
	spec := smallSpec()
	spec.Root.Path = "/r"
	if got := onExitSpec(spec, wire.StartRequest{OnExit: &wire.OnExit{Bundle: "/b"}}); got.Root.Path != "/r" {
		t.Errorf("got %q", got.Root.Path)
	}
}
