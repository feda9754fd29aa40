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

// afterSpec is the container's spec with another command: the same identity, the
// same confinement, and what is left of it.
func afterSpec(spec *specs.Spec, request wire.StartRequest) *specs.Spec {
	after, derived, linux, process := request.After, *spec, *spec.Linux, *spec.Process
	process.Args, process.Env = request.Args, append(slices.Clone(process.Env), request.Env...)
	process.Terminal, process.ConsoleSize = false, nil
	root := *spec.Root
	if !filepath.IsAbs(root.Path) {
		root.Path = filepath.Join(after.Bundle, root.Path)
	}
	linux.Namespaces = afterNamespaces(linux.Namespaces, after.Namespaces)
	afterCgroup(&linux, after)
	// They are as the container has left them.
	linux.Sysctl, linux.NetDevices, linux.TimeOffsets, linux.RootfsPropagation = nil, nil, nil, ""
	linux.IntelRdt = rdtGroup(linux.IntelRdt, request.ID) // the runtime would take its own container's name
	derived.Hostname, derived.Domainname = "", ""
	derived.Process, derived.Root, derived.Linux = &process, &root, &linux
	derived.Mounts = afterMounts(spec.Mounts)
	derived.Hooks = nil // what they have made is there; what they undo is not due yet
	return &derived
}

// afterNamespaces are those that were kept, a new mount namespace for the copy of
// the old one, and in the place of the container's own pid namespace, which has
// ended with its first process, a new one. One that the container has joined
// (that of its pod, of another container) goes on.
func afterNamespaces(own []specs.LinuxNamespace, kept map[string]string) []specs.LinuxNamespace {
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

// afterCgroup is below the container's own, whose limits hold; only its devices are
// said again. systemd's driver knows no cgroup below a scope, and removes the scope
// with its last process: there it is one beside, with the same limits.
func afterCgroup(linux *specs.Linux, after *wire.After) {
	if parts := strings.Split(after.Cgroup, ":"); after.SystemdCgroup && len(parts) == 3 {
		linux.CgroupsPath = after.Cgroup + "-" + strings.ToLower(afterCgroupName)
		return
	}
	linux.CgroupsPath = filepath.Join(after.Cgroup, afterCgroupName)
	if linux.Resources != nil {
		linux.Resources = &specs.LinuxResources{Devices: linux.Resources.Devices}
	}
}

// afterMounts: all but what shows the pid namespace is there.
func afterMounts(own []specs.Mount) []specs.Mount {
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
