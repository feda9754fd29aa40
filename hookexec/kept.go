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

// Kept holds what a container's onExit needs after the container has exited: open files of
// its namespaces, which keep them alive, and the mounts with the mount namespace.
type Kept struct {
	// namespaces by their types' names in the OCI spec.
	namespaces map[string]*os.File
	// memory is the file that counts OOM kills in the container's cgroup, or "".
	memory string
	// around is the same file of the parent cgroup, which counts those below it too, and
	// before is its count when the container was created. Only on cgroup v2.
	around string
	before int
	// oomEvents is cgroup v1's eventfd. It counts how often the container's cgroup was out
	// of memory, plus one when that cgroup is removed. It is nil on v2 and on error.
	oomEvents *os.File
}

// kinds maps a namespace's name in /proc, namespaces(7), to its name in the OCI spec. The
// pid namespace ends with its first process, so it cannot be kept.
var kinds = map[string]string{
	"mnt": "mount", "net": "network", "ipc": "ipc", "uts": "uts", "user": "user", "cgroup": "cgroup", "time": "time",
}

// Keep opens what an onExit needs of the container whose init has the pid. The init must
// not have been reaped. Unless all is set, only the network namespace is kept.
func Keep(pid int, all bool) (*Kept, error) {
	kept := newKept(oomCounter(pid))
	for name, kind := range kinds {
		if !all && name != "net" {
			continue
		}
		file, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns", name))
		if errors.Is(err, fs.ErrNotExist) && name != "mnt" && name != "net" {
			continue // the kernel does not support it
		}
		if err != nil {
			kept.Close()
			return nil, fmt.Errorf("keep the container's %s namespace: %w", kind, err)
		}
		kept.namespaces[kind] = file
	}
	return kept, nil
}

// newKept returns a Kept without namespaces. memory is the file that counts the container's OOM kills.
func newKept(memory string) *Kept {
	kept := &Kept{namespaces: map[string]*os.File{}, memory: memory}
	switch dir, name := filepath.Split(memory); name {
	case memoryEvents:
		kept.around = filepath.Join(filepath.Dir(filepath.Clean(dir)), memoryEvents)
		kept.before, _ = readOOMKills(kept.around)
	case oomControl:
		kept.oomEvents = oomEvents(dir)
	}
	return kept
}

// Close releases the namespaces and mounts. It may be called more than once.
func (k *Kept) Close() {
	closeAll(valuesOf(k.namespaces)...)
	_ = k.oomEvents.Close() // closing nil is harmless
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

// Paths returns paths of the namespaces, by their types' names in the OCI spec. Other
// processes can open them too. They begin with two slashes because runc 1.2 to 1.5 reads
// any path /proc/PID/… of a user namespace as the namespace of the process PID
// (internal/userns, GetUserNamespaceMappings: Sscanf also counts the number if the rest of
// the path does not match).
func (k *Kept) Paths() map[string]string {
	paths := map[string]string{}
	for kind, file := range k.namespaces {
		paths[kind] = fmt.Sprintf("//proc/%d/fd/%d", os.Getpid(), file.Fd())
	}
	return paths
}

// OOMKills returns the number of OOM kills in the container's cgroup. known is false if
// it cannot be read: systemd removes a scope's cgroup when its last process exits.
func (k *Kept) OOMKills() (count int, known bool) { return readOOMKills(k.memory) }

// OOMAround reports, after the container has exited, whether there was an OOM kill that
// may have been the container's. It is the fallback when systemd has removed the scope. On
// cgroup v2 it counts the OOM kills since the container was created in the parent cgroup
// and in all cgroups that are or were below it; on v1, those in its own cgroup.
func (k *Kept) OOMAround() bool {
	if k.oomEvents != nil {
		return k.sawOOM()
	}
	count, known := readOOMKills(k.around)
	return known && count > k.before
}

// removalWait is how long sawOOM waits for the kernel to report that a cgroup was removed. A
// kernel worker does that (memcg_event_remove, mm/memcontrol-v1.c).
const removalWait = time.Second

// sawOOM reads the eventfd. It can be called once. A count of 0 means no OOM, because an
// OOM is reported before the process is killed. A count of 1 may be the cgroup's removal,
// so sawOOM then waits for a second event.
func (k *Kept) sawOOM() bool {
	_ = k.oomEvents.SetReadDeadline(time.Now().Add(removalWait)) // if the file is closed, Read fails too
	conn, _ := k.oomEvents.SyscallConn()                         // it fails only for nil
	count := uint64(0)
	_ = conn.Read(func(fd uintptr) (done bool) { // it fails at the deadline, and if the file is closed
		buffer := make([]byte, 8)
		_, _ = unix.Read(int(fd), buffer) // the buffer stays 0 if the count is 0
		count += binary.NativeEndian.Uint64(buffer)
		return count != 1
	})
	return count > 1
}

func readOOMKills(path string) (count int, known bool) {
	data, _ := os.ReadFile(path) // a missing file has no such line either
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "oom_kill "); ok {
			count, err := strconv.Atoi(strings.TrimSpace(value))
			return count, err == nil
		}
	}
	return 0, false
}

// memoryEvents is cgroup v2's file. It also counts the events in cgroups below its own,
// even after they are removed.
const memoryEvents = "memory.events"

// oomControl is cgroup v1's file. It counts only the events in its own cgroup.
const oomControl = "memory.oom_control"

// cgroupMount is where cgroups of both versions are mounted (systemd, file-hierarchy(7)).
const cgroupMount = "/sys/fs/cgroup"

// oomEvents returns the eventfd of a v1 memory cgroup, or nil on error.
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
	_ = unix.SetNonblock(int(fd), true) // so that os.File can wait for it; for an eventfd it cannot fail
	return os.NewFile(fd, "eventfd of "+dir)
}

// oomCounter returns the file in which the kernel counts the OOM kills of a process's
// cgroup: memory.events on cgroup v2, memory.oom_control on v1 (since Linux 4.13).
func oomCounter(pid int) string {
	data, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup")) // a process that is gone has no cgroup
	return oomCounterOf(string(data))
}

// oomCounterOf takes the contents of /proc/PID/cgroup.
func oomCounterOf(memberships string) string {
	unified := ""
	for line := range strings.Lines(memberships) {
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

// WaitStatus returns the status of a reaped process, as wait(2) returned it, from a pidfd
// that was opened before. ok is false on kernels before Linux 6.15, which added
// PIDFD_INFO_EXIT.
func WaitStatus(pidfd int) (status unix.WaitStatus, ok bool) {
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(pidfd, &info); err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
		return 0, false
	}
	return unix.WaitStatus(info.Exit_code), true
}
