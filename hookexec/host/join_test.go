package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// names returns the paths by which the files were opened.
func names(files []*os.File) []string {
	var all []string
	for _, file := range files {
		all = append(all, file.Name())
	}
	return all
}

// TestJoinFiles: one file for each hierarchy, sorted by controller.
func TestJoinFiles(t *testing.T) {
	dir := t.TempDir()
	group := func(name string, files ...string) string {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if err := os.WriteFile(filepath.Join(path, file), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	cpu, memory, unified, empty := group("cpu", "tasks"), group("memory", "tasks"), group("unified", "cgroup.procs"), group("empty")
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		paths map[string]string
		want  []string
	}{
		"none":                   {nil, nil},
		"each":                   {map[string]string{"memory": memory, "cpu": cpu}, []string{cpu + "/tasks", memory + "/tasks"}},
		"mounted together":       {map[string]string{"cpuacct": cpu, "cpu": cpu}, []string{cpu + "/tasks"}},
		"hybrid v2":              {map[string]string{"": unified, "cpu": cpu}, []string{unified + "/cgroup.procs", cpu + "/tasks"}},
		"v2, already joined":     {map[string]string{"": filepath.Join(hybridMountpoint, own[""]), "cpu": cpu}, []string{cpu + "/tasks"}},
		"v2 that is not mounted": {map[string]string{"": empty}, nil},
		"a missing cgroup":       {map[string]string{"cpu": cpu, "memory": empty}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := descriptors(t)
			files, err := joinFiles(test.paths)
			defer closeFiles(files)
			if got := names(files); !slices.Equal(got, test.want) || (err == nil) != (test.want != nil || test.paths == nil) {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
			for _, file := range files {
				if _, err := file.Read(make([]byte, 1)); !errors.Is(err, unix.EBADF) {
					t.Errorf("%s is readable: %v", file.Name(), err)
				}
			}
			if err != nil {
				if after := descriptors(t); !errors.Is(err, fs.ErrNotExist) || !slices.Equal(after, before) {
					t.Errorf("%v; descriptors are %q, before %q", err, after, before)
				}
			}
		})
	}
}

// TestJoinsItself: only on cgroup v1, and not with a CPU affinity.
func TestJoinsItself(t *testing.T) {
	if got := joinsItself(&specs.Process{}); got == cgroups.IsCgroup2UnifiedMode() {
		t.Errorf("got %t", got)
	}
	if joinsItself(&specs.Process{ExecCPUAffinity: &specs.CPUAffinity{}}) {
		t.Error("it joins itself although the spec has a CPU affinity")
	}
}

// TestFrozen: a state that cannot be read counts as not frozen.
func TestFrozen(t *testing.T) {
	cgroups.TestMode = true // accept any file as a cgroup's
	defer func() { cgroups.TestMode = false }()
	for state, want := range map[string]bool{"": false, "THAWED\n": false, "FROZEN\n": true, "nonsense": false} {
		dir := t.TempDir()
		if state != "" {
			if err := os.WriteFile(filepath.Join(dir, "freezer.state"), []byte(state), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := frozen(dir); got != want {
			t.Errorf("%q: got %t", state, got)
		}
	}
	t.Chdir(t.TempDir())
	if err := os.WriteFile("freezer.state", []byte("FROZEN\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if frozen("") {
		t.Error("an empty path is reported as frozen")
	}
}

// TestInherited: the cgroups' files come first, then the program. On error no file stays open.
func TestInherited(t *testing.T) {
	root := t.TempDir()
	tasks, program := filepath.Join(root, "tasks"), filepath.Join(root, id, filterFile)
	if err := errors.Join(os.Mkdir(filepath.Join(root, id), 0o700), os.WriteFile(tasks, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	request := wire.StartRequest{Root: root, ID: id}
	want := func(own *extraState, says string, want ...string) {
		t.Helper()
		before := descriptors(t)
		files, err := inherited(request, own)
		if got := names(files); !slices.Equal(got, want) || (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("got %q, %v, want %q, %q", got, err, want, says)
		}
		closeFiles(files)
		if after := descriptors(t); !slices.Equal(after, before) {
			t.Errorf("descriptors are %q, before %q", after, before)
		}
	}
	cgroup := map[string]string{"cpu": root}
	want(&extraState{}, "")
	want(&extraState{Cgroups: cgroup}, "", tasks)
	want(&extraState{Cgroups: map[string]string{"cpu": filepath.Join(root, "none")}}, "open the container's cgroups")
	want(&extraState{Cgroups: cgroup, Filter: true}, filterFile)
	if err := os.WriteFile(program, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	want(&extraState{Cgroups: cgroup, Filter: true}, "", tasks, program)
}

// takes, in the environment, makes this test's binary a process that calls take.
const takes = "HOST_TEST_TAKES"

// TestTake: inherited files are used and closed, up to the first file of another kind.
func TestTake(t *testing.T) {
	if count, err := strconv.Atoi(os.Getenv(takes)); err == nil {
		err := take()
		if err != nil {
			_, _ = os.Stdout.WriteString("error: " + err.Error() + "\n")
		}
		for fd := firstInherited; fd < firstInherited+count; fd++ {
			var stat unix.Stat_t
			if unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO {
				_, _ = os.Stdout.WriteString("a pipe is left\n")
			} else if unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG {
				_, _ = os.Stdout.WriteString("a file is left\n")
			}
		}
		os.Exit(0)
	}
	needsRoot(t)
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("/sys/fs/cgroup/pids", own["pids"], "tasks")
	if cgroups.IsCgroup2UnifiedMode() {
		path = filepath.Join("/sys/fs/cgroup", own[""], "cgroup.procs")
	}
	open := func(path string, flags int) *os.File {
		file, err := os.OpenFile(path, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		return file
	}
	written := func(name, text string) *os.File {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return open(path, os.O_RDONLY)
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	unified := open(path, os.O_WRONLY)
	if cgroups.IsCgroup2HybridMode() {
		unified = open(filepath.Join(hybridMountpoint, own[""], "cgroup.procs"), os.O_WRONLY)
	}
	cgroup, readOnly, program, empty := open(path, os.O_WRONLY), open(path, os.O_RDONLY), written("program", "x"), written("empty", "")
	unreadable := open(written("file", "x").Name(), os.O_WRONLY)
	for name, test := range map[string]struct {
		files []*os.File
		want  string
	}{
		"last words":                     {[]*os.File{writer, reader}, "a pipe is left\na pipe is left\n"},
		"last words, a cgroup":           {[]*os.File{writer, cgroup, reader}, "a pipe is left\na pipe is left\n"},
		"a cgroup":                       {[]*os.File{cgroup, reader}, "a pipe is left\n"},
		"cgroups, a program, a pipe":     {[]*os.File{cgroup, cgroup, program, reader}, "a pipe is left\n"},
		"nothing after a pipe":           {[]*os.File{writer, reader, program}, "a pipe is left\na pipe is left\na file is left\n"},
		"a cgroup of v2":                 {[]*os.File{unified, reader}, "a pipe is left\n"},
		"a cgroup that cannot be joined": {[]*os.File{readOnly}, "error: join the container's cgroup: bad file descriptor\na file is left\n"},
		"an empty program":               {[]*os.File{empty}, "error: the seccomp program is empty\na file is left\n"},
		"an unreadable program":          {[]*os.File{unreadable}, "error: read the seccomp program: bad file descriptor\na file is left\n"},
	} {
		t.Run(name, func(t *testing.T) {
			taker := exec.Command("/proc/self/exe", "-test.run=^TestTake$")
			taker.Env = append(os.Environ(), fmt.Sprintf("%s=%d", takes, len(test.files)), "GORACE=atexit_sleep_ms=0")
			taker.ExtraFiles = test.files
			got, err := taker.Output()
			if err != nil || string(got) != test.want {
				t.Errorf("got %q, %v, want %q", got, err, test.want)
			}
		})
	}
}
