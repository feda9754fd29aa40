package host

import (
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// On cgroup v1 the process that becomes the handler joins its cgroups itself, one
// thread alone, by a "0" in their tasks files. libcontainer would write its number
// into cgroup.procs from outside, and for that the kernel stops all forks and exits
// of the machine, which takes an RCU grace period: 5 to 21 ms
// (cgroup_procs_write_start in the kernel's kernel/cgroup/cgroup.c: "we can skip
// the global lock"). The thread is the one that calls execve, which ends the others.
//
// On v2 libcontainer clones the process into its cgroup, which costs nothing.

// joinsItself: with a CPU affinity of its own the cgroup comes first, because before
// Linux 6.2 the joining of a cpuset resets it.
func joinsItself(process *specs.Process) bool {
	return !cgroups.IsCgroup2UnifiedMode() && process.ExecCPUAffinity == nil
}

// joinFiles opens what join writes to. The order is the controllers' names', so that
// what fails is told the same way each time.
func joinFiles(paths map[string]string) ([]*os.File, error) {
	var opened []string
	var files []*os.File
	for _, controller := range slices.Sorted(maps.Keys(paths)) {
		path := filepath.Join(paths[controller], "tasks")
		if controller == "" { // the v2 hierarchy beside them
			if inCgroup2(paths[""]) {
				continue
			}
			path = filepath.Join(paths[""], "cgroup.procs")
		}
		if slices.Contains(opened, path) {
			continue // controllers that are mounted together
		}
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			closeFiles(files)
			return nil, err
		}
		opened, files = append(opened, path), append(files, file)
	}
	return files, nil
}

// inCgroup2 reports whether this process is in that cgroup of the v2 hierarchy.
func inCgroup2(path string) bool {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	return err == nil && filepath.Join(hybridMountpoint, own[""]) == path
}

// frozen reports whether a cgroup of the v1 freezer is frozen, or about to be. One
// that cannot be asked is not known to be.
func frozen(path string) bool {
	state, _ := (&fs.FreezerGroup{}).GetState(path)
	return state == cgroups.Frozen
}
