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

// onExitSpec returns the container's spec with the onExit's command. It has the same
// identity and confinement, and uses the kept namespaces and mounts.
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
	// The kept namespaces and mounts have these settings already, as the container left them.
	linux.Sysctl, linux.NetDevices, linux.TimeOffsets, linux.RootfsPropagation = nil, nil, nil, ""
	linux.IntelRdt = rdtGroup(linux.IntelRdt, request.ID) // by default the runtime would use the onExit's own ID
	derived.Hostname, derived.Domainname = "", ""
	derived.Process, derived.Root, derived.Linux = &process, &root, &linux
	derived.Mounts = onExitMounts(spec.Mounts)
	derived.Hooks = nil // the create hooks have run, and the delete hooks must not run before the container is deleted
	return &derived
}

// onExitNamespaces returns the kept namespaces, and a new mount namespace for the copied
// mounts. A private pid namespace ended with the container's first process, so it is
// replaced by a new one; a shared one (of the pod or of another container) is used again.
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
				continue // the kernel does not support it
			}
		}
		namespaces = append(namespaces, namespace)
	}
	return namespaces
}

// setOnExitCgroup puts the onExit into a cgroup below the container's, whose limits then
// apply; only the device rules are repeated. systemd's driver does not support a cgroup
// below a scope, and removes the scope when its last process exits: with it, the onExit
// gets a scope beside the container's, with the same limits.
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

// onExitMounts returns the mounts that must be made again: /proc, which shows the pid
// namespace, and those below it. All others are in the copied mounts.
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

// keepDev adds /dev to the mounts, so that the runtime does not set it up again. Its mount
// flags are repeated, because crun applies those of the spec. The container may have
// replaced /dev by a symbolic link that leads out of its root; that is refused. It cannot
// change after this check, because no process of the container is running.
func keepDev(spec *specs.Spec) error {
	dev := filepath.Join(spec.Root.Path, "dev")
	fd, err := unix.Open(dev, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("it is not a directory: %w", err)
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
