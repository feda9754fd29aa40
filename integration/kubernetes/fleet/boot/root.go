package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// kubeletSysctls are what a kubelet sets for the whole machine, with the values that it wants: it does not set what has them already. See
// setupKernelTunables in its pkg/kubelet/cm.
var kubeletSysctls = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// makeRoot makes the node's root the root of this mount namespace.
func makeRoot(c *Config) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root := filepath.Join(c.Dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	options := fmt.Sprintf("lowerdir=%s:/,upperdir=%s,workdir=%s", strings.Join(c.Layers, ":"), c.Upper, c.Work)
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		return fmt.Errorf("overlay with %s: %w", options, err)
	}
	for _, step := range []func() error{
		func() error { return mountKernel(root) },
		func() error { return mountCgroups(root, all) },
		func() error { return bindAll(root, c.Binds) },
		func() error { return hideSysctls(root) },
		func() error { return pivot(root) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// mountKernel mounts what a machine has of its kernel. The devices are the machine's.
func mountKernel(root string) error {
	for _, m := range []struct {
		source, place, kind string
		flags               uintptr
		data                string
	}{
		{"proc", "proc", "proc", 0, ""},
		{"sysfs", "sys", "sysfs", 0, ""},
		{"/dev", "dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"tmpfs", "run", "tmpfs", 0, "mode=755"},
		{"tmpfs", "tmp", "tmpfs", 0, "mode=1777"},
	} {
		if err := unix.Mount(m.source, filepath.Join(root, m.place), m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount /%s: %w", m.place, err)
		}
	}
	return nil
}

func bindAll(root string, binds map[string]string) error {
	for place, dir := range binds {
		at := filepath.Join(root, place)
		if err := os.MkdirAll(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(dir, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", place, err)
		}
	}
	return nil
}

// hideSysctls lets the node set those of its own network, and no others.
func hideSysctls(root string) error {
	sys := filepath.Join(root, "proc/sys")
	for _, place := range []string{filepath.Join(sys, "net"), sys} {
		if err := unix.Mount(place, place, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", place, err)
		}
	}
	values := filepath.Join(root, "run/sysctls")
	if err := os.Mkdir(values, 0o755); err != nil {
		return err
	}
	for name, value := range kubeletSysctls {
		file := filepath.Join(values, strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, filepath.Join(sys, name), "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("hide %s: %w", name, err)
		}
	}
	return unix.Mount("", sys, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}

// pivot makes it the root, and lets the old one go. Mounts propagate from the node to its containers, as on a machine.
func pivot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}
