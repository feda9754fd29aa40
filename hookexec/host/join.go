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

// On cgroup v1 the process that becomes the handler joins its cgroups itself: its one
// thread writes "0" to their tasks files. libcontainer would write the pid to
// cgroup.procs from outside. For that, the kernel blocks all forks and exits of the
// machine for an RCU grace period, 5 to 21 ms (cgroup_procs_write_start in the kernel's
// kernel/cgroup/cgroup.c: "we can skip the global lock"). The thread is the one that calls
// execve, which ends the others.
//
// On v2 libcontainer clones the process into its cgroup, which costs nothing.

// joinsItself reports whether the handler's process joins its cgroups itself. With a CPU
// affinity in the spec, libcontainer must join first, because before Linux 6.2 joining a
// cpuset resets the affinity.
func joinsItself(process *specs.Process) bool {
	return !cgroups.IsCgroup2UnifiedMode() && process.ExecCPUAffinity == nil
}

// joinFiles opens the files that takeOne writes to, sorted by controller, so that errors
// are reproducible.
func joinFiles(paths map[string]string) ([]*os.File, error) {
	var opened []string
	var files []*os.File
	for _, controller := range slices.Sorted(maps.Keys(paths)) {
		path := filepath.Join(paths[controller], "tasks")
		if controller == "" { // the v2 hierarchy of a hybrid machine
			if inCgroup2(paths[""]) {
				continue
			}
			path = filepath.Join(paths[""], "cgroup.procs")
		}
		if slices.Contains(opened, path) {
			continue // several controllers share a hierarchy
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

// inCgroup2 reports whether this process is already in the given cgroup of the v2
// hierarchy.
func inCgroup2(path string) bool {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	return err == nil && filepath.Join(hybridMountpoint, own[""]) == path
}

// frozen reports whether a cgroup of the v1 freezer is frozen or freezing. It returns false
// if the state cannot be read.
func frozen(path string) bool {
	state, _ := (&fs.FreezerGroup{}).GetState(path)
	return state == cgroups.Frozen
}
