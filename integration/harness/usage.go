package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Memory is what a process has in memory, in bytes.
type Memory struct {
	// PSS counts a page that n processes share as an nth.
	PSS int64
	// Private are the pages that no other process shares.
	Private int64
	// Anonymous are the pages of no file.
	Anonymous int64
}

// Memory reads /proc/PID/smaps_rollup.
func (p Process) Memory() (Memory, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "smaps_rollup"))
	if err != nil {
		return Memory{}, fmt.Errorf("memory of process %d: %w", p.PID, err)
	}
	var m Memory
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kilobytes, _ := strconv.ParseInt(fields[1], 10, 64) // 0 for the first line, which has addresses
		switch fields[0] {
		case "Pss:":
			m.PSS += kilobytes << 10
		case "Private_Clean:", "Private_Dirty:":
			m.Private += kilobytes << 10
		case "Anonymous:":
			m.Anonymous += kilobytes << 10
		}
	}
	return m, nil
}

// CPU is how long the process has worked, and the children that it has waited for: in steps of 10 ms.
func (p Process) CPU() (time.Duration, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "stat"))
	if err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", p.PID, err)
	}
	// What follows the name, which may hold anything, begins with the third field: utime is the 14th, cstime the 17th.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int64
	for _, i := range []int{11, 12, 13, 14} {
		if i >= len(fields) {
			return 0, fmt.Errorf("unknown format of /proc/%d/stat", p.PID)
		}
		n, _ := strconv.ParseInt(fields[i], 10, 64)
		ticks += n
	}
	const ticksPerSecond = 100 // USER_HZ, of all architectures that Go runs on
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// Processes lists the daemon, its shims, and all that descends from the shims.
func (d *Daemon) Processes() ([]Process, error) {
	all, err := processes()
	if err != nil {
		return nil, err
	}
	daemon, err := readProcess(d.Pid())
	if err != nil {
		return nil, err
	}
	found := []Process{daemon}
	for _, shim := range d.shimsAmong(all) {
		found = append(found, tree(all, shim.PID)...)
	}
	return found, nil
}

// ShimAddress is where the shim of a task listens, as its bundle says.
func (d *Daemon) ShimAddress(namespace, id string) (string, error) {
	text, err := os.ReadFile(filepath.Join(d.bundles(), namespace, id, "address"))
	if err != nil {
		return "", fmt.Errorf("address of the shim of %s: %w", id, err)
	}
	return strings.TrimPrefix(strings.TrimSpace(string(text)), "unix://"), nil
}

func (d *Daemon) bundles() string {
	return filepath.Join(d.Dir, "state", "io.containerd.runtime.v2.task")
}

// Leftovers lists the directories of tasks that there are: their bundles, their working directories, and what the
// runtime keeps of them. None once all have been deleted. Watch does not look at them.
func (d *Daemon) Leftovers() []string {
	var found []string
	for _, dir := range []string{d.bundles(), filepath.Join(d.Root, "io.containerd.runtime.v2.task"), d.RuncRoot, filepath.Join(d.Dir, "c")} {
		paths, _ := filepath.Glob(filepath.Join(dir, "*", "*")) // the pattern is valid
		found = append(found, paths...)
	}
	return found
}

// Machine says in one line what numbers belong to.
func Machine() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	var name unix.Utsname
	_ = unix.Uname(&name) // it cannot fail
	var info unix.Sysinfo_t
	_ = unix.Sysinfo(&info)
	memory := float64(uint64(info.Totalram)*uint64(info.Unit)) / (1 << 30)
	return fmt.Sprintf("%d × %s, %.0f GiB, Linux %s", runtime.NumCPU(), model, memory, unix.ByteSliceToString(name.Release[:]))
}

// Commit names the commit that the working directory is of, with a mark if it has changes.
func Commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=10").Output()
	if err != nil {
		return "unknown" // a tarball
	}
	return strings.TrimSpace(string(out))
}
