package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Process is what /proc said about one process at one moment.
type Process struct {
	PID, PPID int
	State     string // one letter, as in proc(5); Z is a zombie
	Comm      string
	Cmdline   []string // empty for a zombie
	start     string   // start time in clock ticks since boot: with PID it names one process for ever
	threads   int      // that have not ended, the first counted even then
	cgroups   []cgroup
}

type cgroup struct{ hierarchy, path string } // as in /proc/PID/cgroup; hierarchy "" is cgroup v2

func (p Process) String() string {
	return fmt.Sprintf("process %d (parent %d, state %s) %s %q", p.PID, p.PPID, p.State, p.Comm, p.Cmdline)
}

// identity is String without what changes in a process's life.
func (p Process) identity() string {
	return fmt.Sprintf("process %d, %s %q", p.PID, p.Comm, p.Cmdline)
}

// Shim says whether it is a containerd shim, by the name of its executable.
func (p Process) Shim() bool {
	return len(p.Cmdline) > 0 && strings.HasPrefix(filepath.Base(p.Cmdline[0]), "containerd-shim-")
}

func (p Process) hasFlag(name, value string) bool {
	i := slices.Index(p.Cmdline, name)
	return i >= 0 && i+1 < len(p.Cmdline) && p.Cmdline[i+1] == value
}

// names says whether an argument has a path below dir.
func (p Process) names(dir string) bool {
	return slices.ContainsFunc(p.Cmdline, func(argument string) bool { return strings.Contains(argument, dir+"/") })
}

// alive says whether this very process, and not a later one with its number, still runs.
func (p Process) alive() bool {
	now, err := readProcess(p.PID)
	return err == nil && now.start == p.start && !now.Ended()
}

// Ended says whether it is a zombie with no other thread: the first may end before the others, which keep the process
// in its cgroups. Whether someone reaps it is another question.
func (p Process) Ended() bool { return p.State == "Z" && p.threads <= 1 }

// processes lists all processes that exist from the first to the last look.
func processes() ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list of processes: %w", err)
	}
	var all []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil { // else it has ended meanwhile
			all = append(all, p)
		}
	}
	return all, nil
}

func readProcess(pid int) (Process, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Process{}, err
	}
	// "pid (comm) state ppid …": comm may hold anything, so look for its last parenthesis.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < 0 {
		return Process{}, errors.New("unknown format of " + dir + "/stat")
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 20 {
		return Process{}, errors.New("unknown format of " + dir + "/stat")
	}
	p := Process{PID: pid, Comm: string(stat[open+1 : end]), State: fields[0], start: fields[19]}
	p.PPID, _ = strconv.Atoi(fields[1])
	p.threads, _ = strconv.Atoi(fields[17])
	cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	if text := strings.TrimRight(string(cmdline), "\x00"); text != "" {
		p.Cmdline = strings.Split(text, "\x00")
	}
	membership, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
	p.cgroups = parseCgroups(string(membership))
	return p, nil
}

// parseCgroups reads lines like "4:memory:/a/b" (v1) and "0::/a/b" (v2).
func parseCgroups(text string) []cgroup {
	var found []cgroup
	for line := range strings.Lines(text) {
		if part := strings.SplitN(strings.TrimSpace(line), ":", 3); len(part) == 3 {
			found = append(found, cgroup{hierarchy: part[1], path: part[2]})
		}
	}
	return found
}

// tree lists root and its descendants, parents first.
func tree(all []Process, root int) []Process {
	var found []Process
	for _, p := range all {
		if p.PID == root {
			found = append(found, p)
		}
	}
	for i := 0; i < len(found); i++ {
		for _, p := range all {
			if p.PPID == found[i].PID {
				found = append(found, p)
			}
		}
	}
	return found
}

// mountPoints lists the mount points that a process (a pid or "self") sees, in the order of mounting.
func mountPoints(pid string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join("/proc", pid, "mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("list of mounts: %w", err)
	}
	var points []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 {
			points = append(points, f[4])
		}
	}
	return points, nil
}

// ProcessByID looks at one process; os.ErrNotExist if there is none.
func ProcessByID(pid int) (Process, error) { return readProcess(pid) }

// Descriptors lists what the process's file descriptors refer to, as "number -> target".
func (p Process) Descriptors() ([]string, error) {
	dir := filepath.Join("/proc", strconv.Itoa(p.PID), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("file descriptors of process %d: %w", p.PID, err)
	}
	var open []string
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil { // else closed meanwhile
			open = append(open, e.Name()+" -> "+target)
		}
	}
	return open, nil
}

// Threads lists the ids of the process's threads.
func (p Process) Threads() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(p.PID), "task"))
	if err != nil {
		return nil, fmt.Errorf("threads of process %d: %w", p.PID, err)
	}
	ids := make([]string, len(entries))
	for i, e := range entries {
		ids[i] = e.Name()
	}
	return ids, nil
}

// Children lists the processes whose parent it is.
func (p Process) Children() ([]Process, error) {
	all, err := processes()
	var children []Process
	for _, c := range all {
		if c.PPID == p.PID {
			children = append(children, c)
		}
	}
	return children, err
}
