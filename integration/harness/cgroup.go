package harness

import (
	"os"
	"path/filepath"
	"strings"
)

const cgroupMount = "/sys/fs/cgroup"

// cgroupDirs lists the directories of the cgroups a process is in, the root of a hierarchy left out.
func (p Process) cgroupDirs() []string {
	var dirs []string
	for _, c := range p.cgroups {
		if c.path == "/" || strings.HasPrefix(c.path, "/..") {
			continue
		}
		for _, h := range cgroupHierarchies() {
			if dir := filepath.Join(h, c.path); isDir(dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// inCgroupBelow says whether it is, in any hierarchy, in a cgroup strictly below one of parents.
func (p Process) inCgroupBelow(parents []string) bool {
	for _, c := range p.cgroups {
		if below(c.path, parents) {
			return true
		}
	}
	return false
}

// RemoveCgroupParent removes, in every hierarchy, the empty cgroup that containers had as their parent.
func RemoveCgroupParent(parent string) {
	for _, h := range cgroupHierarchies() {
		_ = os.Remove(filepath.Join(h, parent)) // not empty, or not there: a leak check's business, not ours
	}
}

// cgroupHierarchies lists the directories at which a cgroup path may begin: on v2 the mount itself, on
// v1 (and hybrid) each mount below it. Where links name one hierarchy twice (cpu, cpu,cpuacct), both count.
func cgroupHierarchies() []string {
	if _, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers")); err == nil {
		return []string{cgroupMount}
	}
	entries, _ := os.ReadDir(cgroupMount)
	var dirs []string
	for _, e := range entries {
		if dir := filepath.Join(cgroupMount, e.Name()); isDir(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
