package host

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// onExitSpec is the container's spec with another command: the same identity, the
// same confinement, and what is left of it.
func onExitSpec(spec *specs.Spec, request wire.StartRequest) *specs.Spec {
	onExit, derived, linux, process := request.OnExit, *spec, *spec.Linux, *spec.Process
	process.Args, process.Env = request.Args, append(slices.Clone(process.Env), request.Env...)
	process.Terminal, process.ConsoleSize = false, nil
	root := *spec.Root
	if !filepath.IsAbs(root.Path) {
		root.Path = filepath.Join(onExit.Bundle, root.Path)
	}
	linux.Namespaces = onExitNamespaces(linux.Namespaces, onExit.Namespaces)
	setOnExitCgroup(&linux, onExit)
	// They are as the container has left them.
	linux.Sysctl, linux.NetDevices, linux.TimeOffsets, linux.RootfsPropagation = nil, nil, nil, ""
	linux.IntelRdt = rdtGroup(linux.IntelRdt, request.ID) // the runtime would take its own container's name
	derived.Hostname, derived.Domainname = "", ""
	derived.Process, derived.Root, derived.Linux = &process, &root, &linux
	derived.Mounts = onExitMounts(spec.Mounts)
	derived.Hooks = nil // what they have made is there; what they undo is not due yet
	return &derived
}

// onExitNamespaces are those that were kept, a new mount namespace for the copy of
// the old one, and in the place of the container's own pid namespace, which has
// ended with its first process, a new one. One that the container has joined
// (that of its pod, of another container) goes on.
func onExitNamespaces(own []specs.LinuxNamespace, kept map[string]string) []specs.LinuxNamespace {
	var namespaces []specs.LinuxNamespace
	for _, namespace := range own {
		switch namespace.Type {
		case specs.MountNamespace:
			namespace.Path = ""
		case specs.PIDNamespace:
		default:
			namespace.Path = kept[string(namespace.Type)]
			if namespace.Path == "" {
				continue // a kernel without it
			}
		}
		namespaces = append(namespaces, namespace)
	}
	return namespaces
}

// setOnExitCgroup is below the container's own, whose limits hold; only its devices are
// said again. systemd's driver knows no cgroup below a scope, and removes the scope
// with its last process: there it is one beside, with the same limits.
func setOnExitCgroup(linux *specs.Linux, onExit *wire.OnExit) {
	if parts := strings.Split(onExit.Cgroup, ":"); onExit.SystemdCgroup && len(parts) == 3 {
		linux.CgroupsPath = onExit.Cgroup + "-" + strings.ToLower(onExitCgroupName)
		return
	}
	linux.CgroupsPath = filepath.Join(onExit.Cgroup, onExitCgroupName)
	if linux.Resources != nil {
		linux.Resources = &specs.LinuxResources{Devices: linux.Resources.Devices}
	}
}

// onExitMounts: all but what shows the pid namespace is there.
func onExitMounts(own []specs.Mount) []specs.Mount {
	var mounts []specs.Mount
	below := ""
	for _, mount := range own {
		destination := filepath.Clean("/" + mount.Destination)
		if mount.Type == "proc" {
			below = destination + "/"
		}
		if mount.Type == "proc" || below != "" && strings.HasPrefix(destination, below) {
			mounts = append(mounts, mount)
		}
	}
	return mounts
}

// keepDev names /dev among the mounts, so that the runtime leaves it as it is, with
// the flags that it has: crun gives a bind mount those that it is told. A container
// may have put a link in its place, which would lead out of it. Nobody can do that
// now any more: no process of the container is left.
func keepDev(spec *specs.Spec) error {
	dev := filepath.Join(spec.Root.Path, "dev")
	fd, err := unix.Open(dev, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("it is no directory any more: %w", err)
	}
	defer unix.Close(fd)
	var stat unix.Statfs_t
	if err := unix.Fstatfs(fd, &stat); err != nil {
		return err
	}
	options := []string{"rbind"}
	for flag, option := range map[int64]string{
		unix.ST_RDONLY: "ro", unix.ST_NOSUID: "nosuid", unix.ST_NODEV: "nodev", unix.ST_NOEXEC: "noexec",
	} {
		if stat.Flags&flag != 0 {
			options = append(options, option)
		}
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/dev", Type: "bind", Source: dev, Options: options})
	return nil
}
