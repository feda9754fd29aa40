package harness

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// settleLimit bounds how long Leaks waits for what is on its way out: after Delete was answered, containerd
// still shuts the shim down (3 s at most) and removes the bundle, and runc's cgroup removal retries while the
// kernel empties it. All of it together takes 0.1 s as a rule.
var settleLimit = Patience(10 * time.Second)

// Watch says where to look for leaks.
type Watch struct {
	Daemons []*Daemon
	// CgroupParents are paths such as "/lcs": any cgroup strictly below one, in any hierarchy, and any
	// process in such a cgroup counts. The parent itself is no leak: runc leaves it too.
	CgroupParents []string
	// Dirs are directories below which no mount may stay. Those of Daemons are looked at anyway.
	Dirs []string
	// NetNS also looks at new names in /run/netns, which are the whole machine's.
	NetNS bool
	// Sysctls also looks at the values of the network and at KubeletSysctls, which are the whole machine's.
	Sysctls bool
	// ShimsKilled leaves the shims' sockets out: a shim that ends by SIGKILL cannot remove its own, and
	// neither containerd nor the stock shim's delete does it (seen with 1.6, 1.7 and 2.4).
	ShimsKilled bool
	// Settle bounds how long Leaks waits for things to go by themselves; 0: settleLimit.
	Settle time.Duration
}

// Snapshot is what existed at one moment, as a set of descriptions.
type Snapshot map[string]bool

// TakeSnapshot looks once.
func (w Watch) TakeSnapshot() (Snapshot, error) {
	s := Snapshot{}
	for _, look := range []func(Snapshot) error{w.lookAtProcesses, w.lookAtMounts, w.lookAtCgroups, w.lookAtSockets, w.lookAtNetNS, w.lookAtPodNetwork, w.lookAtSysctls} {
		if err := look(s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Leaks lists what exists now and did not in before, one line each with path or process id. It waits, at
// most w.Settle, for the list to become empty.
func (w Watch) Leaks(ctx context.Context, before Snapshot) ([]string, error) {
	var leaks []string
	var failed error
	err := Poll(ctx, cmp.Or(w.Settle, settleLimit), "leftovers to go", func() (bool, error) {
		now, err := w.TakeSnapshot()
		if err != nil {
			failed = err
			return false, err
		}
		leaks = leaks[:0]
		for what := range now {
			if !before[what] {
				leaks = append(leaks, what)
			}
		}
		return len(leaks) == 0, nil
	})
	switch {
	case failed != nil:
		return nil, failed
	case len(leaks) > 0 && ctx.Err() != nil:
		return leaks, err // cut short: they may still be on their way out
	}
	return leaks, nil
}

// lookAtProcesses notes our shims, handler hosts, zombies, and everything in our cgroups.
func (w Watch) lookAtProcesses(s Snapshot) error {
	all, err := processes()
	if err != nil {
		return err
	}
	parents := map[int]Process{}
	for _, p := range all {
		parents[p.PID] = p
	}
	for _, p := range all {
		if why := w.suspicious(p, parents); why != "" {
			s[fmt.Sprintf("%s: %v, started at tick %s", why, p.identity(), p.start)] = true
		}
	}
	return nil
}

func (w Watch) suspicious(p Process, all map[int]Process) string {
	switch {
	case p.State == "Z":
		// Only while their shim lives are zombies its fault. Then they are pid 1's, which may be slow
		// (a look every 2 s on the development machine) or, in a CI container, may never reap.
		if parent := all[p.PPID]; p.PPID == os.Getpid() || parent.Shim() && w.ours(parent) {
			return "zombie"
		}
		return ""
	case p.Shim() && w.ours(p):
		return "shim"
	case p.handlerHost() && !belongsToOther(p, all, w):
		return "handler host"
	case p.inCgroupBelow(w.CgroupParents):
		return "process in a test's cgroup"
	}
	return ""
}

const handlerHost = "lifecycle-hookexec"

// handlerHost says whether it is one: a shim executes a descriptor, so that the kernel's name for it is a number, and a
// script that stands for it has the kernel's name, as the kernel cuts it.
func (p Process) handlerHost() bool {
	return p.Comm == handlerHost[:15] || len(p.Cmdline) > 0 && filepath.Base(p.Cmdline[0]) == handlerHost
}

func (w Watch) ours(shim Process) bool {
	for _, d := range w.Daemons {
		if shim.hasFlag("-address", d.Address) {
			return true
		}
	}
	return false
}

// belongsToOther says whether an ancestor is the shim of a daemon that is not watched. An orphan counts as
// ours: better a false alarm than a leak that no test claims.
func belongsToOther(p Process, all map[int]Process, w Watch) bool {
	for p.PID > 1 {
		if p.Shim() {
			return !w.ours(p)
		}
		p = all[p.PPID]
	}
	return false
}

// lookAtMounts reads our own list, and the daemon's when it has its own mount namespace.
func (w Watch) lookAtMounts(s Snapshot) error {
	dirs, namespaces := w.Dirs, []string{"self"}
	for _, d := range w.Daemons {
		dirs = append(dirs[:len(dirs):len(dirs)], d.Dir)
		if pid := d.Pid(); pid != 0 && d.cfg.ownMounts() {
			namespaces = append(namespaces, strconv.Itoa(pid))
		}
	}
	for _, ns := range namespaces {
		points, err := mountPoints(ns)
		if err != nil {
			return err
		}
		for _, point := range points {
			if below(point, dirs) {
				s["mount: "+point] = true
			}
		}
	}
	return nil
}

func (w Watch) lookAtCgroups(s Snapshot) error {
	for _, h := range cgroupHierarchies() {
		for _, parent := range w.CgroupParents {
			if err := noteDirs(s, filepath.Join(h, parent)); err != nil {
				return err
			}
		}
	}
	return nil
}

func noteDirs(s Snapshot, top string) error {
	err := filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // gone while we looked, or never there: no leak
		}
		if entry.IsDir() && path != top {
			s["cgroup: "+path] = true
		}
		return nil
	})
	return err
}

// lookAtSockets notes the shims' socket files: all in a daemon's own directory, and in the directory that
// every daemon of 1.x uses those of the daemon's known containers.
func (w Watch) lookAtSockets(s Snapshot) error {
	if w.ShimsKilled {
		return nil
	}
	for _, d := range w.Daemons {
		for _, path := range append(filesIn(d.socketDir()), d.sharedSockets()...) {
			s["socket: "+path] = true
		}
	}
	return nil
}

func (w Watch) lookAtNetNS(s Snapshot) error {
	if w.NetNS {
		for _, path := range filesIn("/run/netns") {
			s["network namespace: "+path] = true
		}
	}
	return nil
}

// lookAtPodNetwork notes what CNI keeps for each pod that is not on the host's network.
func (w Watch) lookAtPodNetwork(s Snapshot) error {
	for _, d := range w.Daemons {
		for what, paths := range map[string][]string{
			"interface": d.podInterfaces(), "address": d.podAddresses(), "result of CNI": d.cniResults(),
		} {
			for _, path := range paths {
				s[what+": "+path] = true
			}
		}
	}
	return nil
}

// KubeletSysctls are what a kubelet sets when it starts: setupKernelTunables in its pkg/kubelet/cm. Nothing else sets
// them while tests run.
var KubeletSysctls = []string{
	"/proc/sys/vm/overcommit_memory", "/proc/sys/vm/panic_on_oom", "/proc/sys/kernel/panic", "/proc/sys/kernel/panic_on_oops",
	"/proc/sys/kernel/keys/root_maxkeys", "/proc/sys/kernel/keys/root_maxbytes",
}

// lookAtSysctls leaves out what belongs to one interface, and comes and goes with it.
func (w Watch) lookAtSysctls(s Snapshot) error {
	if !w.Sysctls {
		return nil
	}
	for _, path := range KubeletSysctls {
		if err := noteSysctls(s, path); err != nil {
			return err
		}
	}
	for _, family := range []string{"ipv4", "ipv6", "bridge"} {
		if err := noteSysctls(s, filepath.Join("/proc/sys/net", family)); err != nil {
			return err
		}
	}
	return nil
}

func noteSysctls(s Snapshot, top string) error {
	return filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // an interface that went while we looked, or no such family
		}
		if entry.IsDir() {
			if table := filepath.Base(filepath.Dir(path)); (table == "conf" || table == "neigh") && entry.Name() != "all" && entry.Name() != "default" {
				return filepath.SkipDir
			}
			return nil
		}
		if value, err := os.ReadFile(path); err == nil { // some can only be written
			s[fmt.Sprintf("sysctl: %s = %s", path, strings.TrimSpace(string(value)))] = true
		}
		return nil
	})
}

// filesIn lists a directory's entries; none if it does not exist.
func filesIn(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var paths []string
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	return paths
}

func below(path string, dirs []string) bool {
	for _, dir := range dirs {
		if strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}
