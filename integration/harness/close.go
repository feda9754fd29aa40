package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// closeLimit bounds each step of Close, from the kill to the process or mount having gone.
var closeLimit = Patience(10 * time.Second)

// Close stops the daemon and takes back everything of it: its shims with all their descendants
// (containers, handlers), their cgroups, the mounts below Dir, and Dir. It ends processes by id, only
// those that descend from a shim with our address. A second Close does nothing.
//
// What Close finds is not reported: a test that must leave nothing compares Snapshots first.
func (d *Daemon) Close() error {
	d.closeClients()
	errs := []error{d.Terminate(), d.killShims(), d.leaveMounts(), d.removeSockets(), UnmountBelow(d.Dir), d.removePodNetwork()}
	if err := os.RemoveAll(d.Dir); err != nil {
		errs = append(errs, fmt.Errorf("directory of containerd: %w", err))
	}
	return errors.Join(errs...)
}

// leaveMounts lets the daemon's own mount namespace go, and with it what is mounted there.
func (d *Daemon) leaveMounts() error {
	if d.mounts == nil {
		return nil
	}
	err := d.mounts.Close()
	d.mounts = nil
	return err
}

// killShims ends the shims of this daemon and what they started, and removes their cgroups.
func (d *Daemon) killShims() error {
	all, err := processes()
	if err != nil {
		return err
	}
	var doomed []Process
	for _, shim := range d.shimsAmong(all) {
		doomed = append(doomed, tree(all, shim.PID)...)
	}
	var cgroups []string
	for _, p := range doomed {
		cgroups = append(cgroups, p.cgroupDirs()...)
	}
	// The shims come first in the list, so that none of them sees a child end and starts to tidy up.
	for _, p := range doomed {
		_ = unix.Kill(p.PID, unix.SIGKILL) // gone already: what we want
	}
	err = awaitEnd(doomed)
	for _, dir := range cgroups {
		_ = unix.Rmdir(dir) // works only on an empty cgroup; ours may share one with the test itself
	}
	return err
}

// awaitEnd of killed processes. Without the test's context: tidying up continues after that has ended.
func awaitEnd(doomed []Process) error {
	return Poll(context.Background(), closeLimit, "the killed processes to end", func() (bool, error) {
		return !slices.ContainsFunc(doomed, Process.alive), nil
	})
}

// removeSockets removes the sockets of killed shims from the directory that they share with other daemons'.
// Those of a dead test's daemon are known from the bundles alone: each names its shim's.
func (d *Daemon) removeSockets() error {
	files, err := filepath.Glob(filepath.Join(d.bundles(), "*", "*", "address"))
	if err != nil {
		return err
	}
	stale := d.sharedSockets()
	for _, file := range files {
		address, err := os.ReadFile(file)
		if path, ok := strings.CutPrefix(string(address), "unix://"); err == nil && ok {
			stale = append(stale, strings.TrimSpace(path))
		}
	}
	for _, path := range stale {
		_ = os.Remove(path) // gone already: what we want
	}
	return nil
}

// Shims lists the shim processes of this daemon.
func (d *Daemon) Shims() ([]Process, error) {
	all, err := processes()
	return d.shimsAmong(all), err
}

// shimsAmong recognises them by their command line: containerd passes its own address to every shim.
func (d *Daemon) shimsAmong(all []Process) []Process {
	var shims []Process
	for _, p := range all {
		if p.Shim() && p.hasFlag("-address", d.Address) {
			shims = append(shims, p)
		}
	}
	return shims
}

// UnmountBelow detaches every mount below dir, the last mounted first.
func UnmountBelow(dir string) error {
	mounts, err := mountPoints("self")
	if err != nil {
		return err
	}
	var errs []error
	for i := len(mounts) - 1; i >= 0; i-- {
		if m := mounts[i]; strings.HasPrefix(m, dir+"/") {
			if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
				errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
			}
		}
	}
	return errors.Join(errs...)
}
