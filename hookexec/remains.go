package hookexec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Remains is what is kept of a container for its onExit: its namespaces live on for
// as long as they are open, and with the mount namespace its mounts.
type Remains struct {
	// namespaces by their types' names in the OCI spec.
	namespaces map[string]*os.File
	// memory is the file that counts OOM kills, and "" where there is none.
	memory string
	// around is cgroup v2's file that counts those of the parent cgroup too, and
	// before what it had counted when the container began.
	around string
	before int
}

// kinds of namespaces by their names in /proc, namespaces(7), and what the OCI spec
// calls them. The pid namespace ends with its first process, so it cannot be kept.
var kinds = map[string]string{
	"mnt": "mount", "net": "network", "ipc": "ipc", "uts": "uts", "user": "user", "cgroup": "cgroup", "time": "time",
}

// Keep the remains of the process that is a container's init. It has not been
// reaped. Without all, only the network namespace is kept.
func Keep(pid int, all bool) (*Remains, error) {
	remains := &Remains{namespaces: map[string]*os.File{}, memory: oomCounter(pid)}
	if filepath.Base(remains.memory) == memoryEvents {
		remains.around = filepath.Join(filepath.Dir(filepath.Dir(remains.memory)), memoryEvents)
		remains.before, _ = readOOMKills(remains.around)
	}
	for name, kind := range kinds {
		if !all && name != "net" {
			continue
		}
		file, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns", name))
		if errors.Is(err, fs.ErrNotExist) && name != "mnt" && name != "net" {
			continue // a kernel without it
		}
		if err != nil {
			remains.Close()
			return nil, fmt.Errorf("keep the container's %s namespace: %w", kind, err)
		}
		remains.namespaces[kind] = file
	}
	return remains, nil
}

// Close lets the namespaces and mounts go.
func (r *Remains) Close() { closeAll(valuesOf(r.namespaces)...) }

func valuesOf(files map[string]*os.File) []*os.File {
	all := make([]*os.File, 0, len(files))
	for _, file := range files {
		all = append(all, file)
	}
	return all
}

// Network returns the network namespace.
func (r *Remains) Network() NetNS { return NetNS{Pidfd: int(r.namespaces["network"].Fd())} }

// Paths of the namespaces, by their types' names in the OCI spec. Processes other
// than the shim can open them too. They begin with two slashes because runc 1.2 to 1.5
// takes the mappings of a user namespace at /proc/PID/anything to be those of the
// process PID (internal/userns, GetUserNamespaceMappings: Sscanf also counts the
// number where the rest of the path does not match).
func (r *Remains) Paths() map[string]string {
	paths := map[string]string{}
	for kind, file := range r.namespaces {
		paths[kind] = fmt.Sprintf("//proc/%d/fd/%d", os.Getpid(), file.Fd())
	}
	return paths
}

// OOMKills counts those in the container's cgroup. known is false where it cannot be
// read: systemd removes a scope's with its last process.
func (r *Remains) OOMKills() (count int, known bool) { return readOOMKills(r.memory) }

// OOMKillsAround counts those since the container began in its cgroup's parent and
// all that are or were below it, the container's own among them: what is left to ask
// of cgroup v2 when systemd has removed the scope. It is 0 where it cannot be read.
func (r *Remains) OOMKillsAround() int {
	count, known := readOOMKills(r.around)
	if !known {
		return 0
	}
	return count - r.before
}

func readOOMKills(path string) (count int, known bool) {
	if path == "" {
		return 0, false
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "oom_kill "); ok {
			count, err := strconv.Atoi(strings.TrimSpace(value))
			return count, err == nil
		}
	}
	return 0, false
}

// memoryEvents is the name of cgroup v2's file. It counts what happens below its
// cgroup too, and keeps that when a cgroup below is removed.
const memoryEvents = "memory.events"

// oomCounter is the file in which the kernel counts the OOM kills of a process's
// cgroup: cgroup-v2's memory.events, and since Linux 4.13 v1's memory.oom_control.
func oomCounter(pid int) string {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return ""
	}
	const mountpoint = "/sys/fs/cgroup"
	unified := ""
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(fields) != 3:
		case fields[1] == "memory":
			return filepath.Join(mountpoint, "memory", fields[2], "memory.oom_control")
		case fields[0] == "0":
			unified = filepath.Join(mountpoint, fields[2], memoryEvents)
		}
	}
	return unified
}

// WaitStatus of a process that has been reaped, as wait(2) gives it, which pidfd
// was opened before. ok is false where the kernel does not tell: Linux does from
// 6.15 on (PIDFD_INFO_EXIT).
func WaitStatus(pidfd int) (status unix.WaitStatus, ok bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(pidfd, &info); err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.Exit_code), true
}
