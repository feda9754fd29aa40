package hookexec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	"golang.org/x/sys/unix"
)

// Kept is what is kept of a container for its onExit: its namespaces live on for
// as long as they are open, and with the mount namespace its mounts.
type Kept struct {
	// namespaces by their types' names in the OCI spec.
	namespaces map[string]*os.File
	// memory is the file that counts OOM kills, and "" where there is none.
	memory string
	// around is cgroup v2's file that counts those of the parent cgroup too, and
	// before what it had counted when the container began.
	around string
	before int
	// told is cgroup v1's eventfd: it counts the times that the kernel was out of
	// memory in the container's cgroup, and one for that cgroup's end. nil on v2, and
	// where there is none.
	oomEvents *os.File
}

// kinds of namespaces by their names in /proc, namespaces(7), and what the OCI spec
// calls them. The pid namespace ends with its first process, so it cannot be kept.
var kinds = map[string]string{
	"mnt": "mount", "net": "network", "ipc": "ipc", "uts": "uts", "user": "user", "cgroup": "cgroup", "time": "time",
}

// Keep the remains of the process that is a container's init. It has not been
// reaped. Without all, only the network namespace is kept.
func Keep(pid int, all bool) (*Kept, error) {
	kept := &Kept{namespaces: map[string]*os.File{}, memory: oomCounter(pid)}
	switch dir, name := filepath.Split(kept.memory); name {
	case memoryEvents:
		kept.around = filepath.Join(filepath.Dir(filepath.Clean(dir)), memoryEvents)
		kept.before, _ = readOOMKills(kept.around)
	case oomControl:
		kept.oomEvents = oomEvents(dir)
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
			kept.Close()
			return nil, fmt.Errorf("keep the container's %s namespace: %w", kind, err)
		}
		kept.namespaces[kind] = file
	}
	return kept, nil
}

// Close lets the namespaces and mounts go. Twice is no harm.
func (k *Kept) Close() {
	closeAll(valuesOf(k.namespaces)...)
	if k.oomEvents != nil {
		_ = k.oomEvents.Close()
	}
}

func valuesOf(files map[string]*os.File) []*os.File {
	all := make([]*os.File, 0, len(files))
	for _, file := range files {
		all = append(all, file)
	}
	return all
}

// Network returns the network namespace.
func (k *Kept) Network() NetNS { return NetNS{Pidfd: int(k.namespaces["network"].Fd())} }

// Paths of the namespaces, by their types' names in the OCI spec. Processes other
// than the shim can open them too. They begin with two slashes because runc 1.2 to 1.5
// takes the mappings of a user namespace at /proc/PID/anything to be those of the
// process PID (internal/userns, GetUserNamespaceMappings: Sscanf also counts the
// number where the rest of the path does not match).
func (k *Kept) Paths() map[string]string {
	paths := map[string]string{}
	for kind, file := range k.namespaces {
		paths[kind] = fmt.Sprintf("//proc/%d/fd/%d", os.Getpid(), file.Fd())
	}
	return paths
}

// OOMKills counts those in the container's cgroup. known is false where it cannot be
// read: systemd removes a scope's with its last process.
func (k *Kept) OOMKills() (count int, known bool) { return readOOMKills(k.memory) }

// OOMAround tells, when the container has ended, whether there was an OOM kill where it
// could have been the container's: what is left to ask when systemd has removed the
// scope. On cgroup v2 that is in its cgroup's parent and all that are or were below
// it, since the container began; on v1 in its own cgroup.
func (k *Kept) OOMAround() bool {
	if k.oomEvents != nil {
		return k.sawOOM()
	}
	count, known := readOOMKills(k.around)
	return known && count > k.before
}

// endWait is how long the kernel has to tell of a removed cgroup's end: it does that
// in a worker (memcg_event_remove, mm/memcontrol-v1.c).
const endWait = time.Second

// sawOOM asks the eventfd, once: one that counts 0 has seen no OOM, as that is told
// before the process is killed; one that counts 1 may have seen the cgroup's end.
func (k *Kept) sawOOM() bool {
	conn, err := k.oomEvents.SyscallConn()
	if err == nil {
		err = k.oomEvents.SetReadDeadline(time.Now().Add(endWait))
	}
	if err != nil {
		return false // closed
	}
	count := uint64(0)
	_ = conn.Read(func(fd uintptr) (done bool) { // its only error is the deadline's
		buffer := make([]byte, 8)
		if n, _ := unix.Read(int(fd), buffer); n == len(buffer) {
			count += binary.NativeEndian.Uint64(buffer)
		}
		return count != 1
	})
	return count > 1
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

// oomControl is the name of v1's, which counts only what happens in its own cgroup.
const oomControl = "memory.oom_control"

// cgroupMount is where cgroups are, of both versions (systemd, file-hierarchy(7)).
const cgroupMount = "/sys/fs/cgroup"

// oomEvents returns the eventfd of a v1 memory cgroup, or nil where there is none to
// be had.
func oomEvents(dir string) *os.File {
	memory := func() ([]cgroup1.Subsystem, error) { return []cgroup1.Subsystem{cgroup1.NewMemory(cgroupMount)}, nil }
	path := strings.TrimPrefix(dir, filepath.Join(cgroupMount, "memory"))
	cgroup, err := cgroup1.Load(cgroup1.StaticPath(path), cgroup1.WithHierarchy(memory))
	if err != nil {
		return nil
	}
	fd, err := cgroup.OOMEventFD()
	if err != nil {
		return nil
	}
	_ = unix.SetNonblock(int(fd), true) // so that os.File can wait for it; of an eventfd it cannot fail
	return os.NewFile(fd, "eventfd of "+dir)
}

// oomCounter is the file in which the kernel counts the OOM kills of a process's
// cgroup: cgroup-v2's memory.events, and since Linux 4.13 v1's memory.oom_control.
func oomCounter(pid int) string {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return ""
	}
	unified := ""
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(fields) != 3:
		case fields[1] == "memory":
			return filepath.Join(cgroupMount, "memory", fields[2], oomControl)
		case fields[0] == "0":
			unified = filepath.Join(cgroupMount, fields[2], memoryEvents)
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
