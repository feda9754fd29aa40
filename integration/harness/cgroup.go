package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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

// MakeCgroupParent makes, in every hierarchy, a cgroup that others are made below. On v2 it gets all controllers: as
// runc does for its containers, their names stay noted in the root's list of what its children may have.
func MakeCgroupParent(parent string) error {
	if controllers, err := os.ReadFile(filepath.Join(cgroupMount, "cgroup.controllers")); err == nil {
		for _, name := range strings.Fields(string(controllers)) {
			_ = os.WriteFile(filepath.Join(cgroupMount, "cgroup.subtree_control"), []byte("+"+name), 0o644) // who needs it will say so
		}
	}
	for _, h := range cgroupHierarchies() {
		if err := os.MkdirAll(filepath.Join(h, parent), 0o755); err != nil {
			return fmt.Errorf("cgroup %s: %w", parent, err)
		}
	}
	return nil
}

// RemoveCgroupTree removes, in every hierarchy, a cgroup and those below it. One that has processes stays: that is a
// leak check's business.
func RemoveCgroupTree(top string) {
	for _, h := range cgroupHierarchies() {
		s := Snapshot{}
		_ = noteDirs(s, filepath.Join(h, top)) // it finds nothing to complain of
		dirs := []string{filepath.Join(h, top)}
		for what := range s {
			dirs = append(dirs, strings.TrimPrefix(what, "cgroup: "))
		}
		slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) }) // children first
		for _, dir := range dirs {
			_ = os.Remove(dir)
		}
	}
}

// CgroupV2 says whether the machine has cgroup v2 alone.
func CgroupV2() bool {
	_, err := os.Stat(filepath.Join(cgroupMount, "cgroup.controllers"))
	return err == nil
}

// cgroupHierarchies lists the directories at which a cgroup path may begin: on v2 the mount itself, on
// v1 (and hybrid) each mount below it. Where links name one hierarchy twice (cpu, cpu,cpuacct), both count.
func cgroupHierarchies() []string {
	if CgroupV2() {
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
