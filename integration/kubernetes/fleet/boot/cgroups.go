package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// hierarchy is a mounted cgroup filesystem.
type hierarchy struct{ point, kind, options string }

// hierarchies of this process's mount namespace.
func hierarchies() ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	return parseHierarchies(string(text)), nil
}

func parseHierarchies(mounts string) (found []hierarchy) {
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[2] != "cgroup" && fields[2] != "cgroup2" || !strings.HasPrefix(fields[1]+"/", cgroupMount+"/") {
			continue
		}
		found = append(found, hierarchy{point: fields[1], kind: fields[2], options: ownOptions(fields[3])})
	}
	return found
}

// ownOptions are those that say which hierarchy it is: the others are of the mount, or of the first mount only.
func ownOptions(options string) string {
	var own []string
	for option := range strings.SplitSeq(options, ",") {
		switch option {
		case "rw", "ro", "relatime", "noatime", "nosuid", "nodev", "noexec", "nsdelegate", "memory_recursiveprot":
		default:
			own = append(own, option)
		}
	}
	return strings.Join(own, ",")
}

// joinCgroups puts this process into the node's cgroups, and lets it see them as roots.
func joinCgroups(c *Config) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		dir := filepath.Join(h.point, c.Cgroup)
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // a new cgroup of v1 has none, and takes no process
			if err := inherit(dir, file); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return err
		}
	}
	return unix.Unshare(unix.CLONE_NEWCGROUP)
}

// inherit fills the file, and those of the cgroups above, from the root of the hierarchy.
func inherit(dir, file string) error {
	value, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, os.ErrNotExist) || len(strings.TrimSpace(string(value))) > 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if err := inherit(filepath.Dir(dir), file); err != nil {
		return err
	}
	if value, err = os.ReadFile(filepath.Join(filepath.Dir(dir), file)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, file), value, 0o644)
}

// mountCgroups mounts the same hierarchies below root: their roots are now the node's cgroups.
func mountCgroups(root string, all []hierarchy) error {
	top := filepath.Join(root, cgroupMount)
	if len(all) == 1 && all[0].point == cgroupMount {
		return errors.New("this machine has cgroup v2 alone: fleets know v1 only")
	}
	if err := unix.Mount("tmpfs", top, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("%s: %w", top, err)
	}
	for _, h := range all {
		place := filepath.Join(root, h.point)
		if err := os.MkdirAll(place, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("cgroup", place, h.kind, 0, h.options); err != nil {
			return fmt.Errorf("%s with %q: %w", place, h.options, err)
		}
	}
	return nil
}
