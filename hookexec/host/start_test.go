package host

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// TestStart: the handler runs in the container, with the container's identity and limits and
// nothing more. Its pidfd is sent, and it outlives the host.
func TestStart(t *testing.T) {
	spec := smallSpec()
	spec.Process.User = specs.User{UID: 65534, GID: 65533, AdditionalGids: []uint32{7}}
	b := newBox(t, spec)
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/uts", b.init.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	b.request.Args = []string{"/bin/sh", "-c", `echo $A $B; readlink /proc/self/ns/uts; id -u; id -G; grep -E 'CapEff|Seccomp:' /proc/self/status; echo error >&2; exec ls /proc/self/fd >&2`}
	got := runHost(t, b.request)
	want := "own handler\n" + name + "\n65534\n65533 7\nCapEff:\t0000000000000000\nSeccomp:\t0\nerror\n0\n1\n2\n3\n" // 3 is the descriptor of the listing
	if got.output != want || got.response.Error != "" || got.status != 0 || got.pidfds != 1 || got.handler.ExitStatus() != 0 {
		t.Errorf("got %+v, want the output %q", got, want)
	}
	b.request.Args = []string{"/bin/sh", "-c", "exit 7"}
	if got := runHost(t, b.request); got.handler.ExitStatus() != 7 || got.output != "" || got.status != 0 {
		t.Errorf("got %+v", got)
	}
}

// TestStartInTheCgroups: the handler joins the cgroups of the container's process, wherever that
// was moved.
func TestStartInTheCgroups(t *testing.T) {
	b := newBox(t, smallSpec())
	want := ""
	for _, path := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); err != nil {
			continue
		}
		group := newCgroup(t, path)
		t.Cleanup(func() { // the init has been killed before
			_ = b.init.Process.Kill()
			_ = b.init.Wait()
			if err := os.Remove(group); err != nil {
				t.Error(err)
			}
		})
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(b.init.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", b.init.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if want = string(own); !strings.Contains(want, "hookexec-test-") {
		t.Fatalf("the container is in %q", want)
	}
	bundle := filepath.Dir(b.request.Root)
	for name, affinity := range map[string]*specs.CPUAffinity{"by itself": nil, "from outside": {Initial: "0"}} {
		t.Run(name, func(t *testing.T) {
			spec := smallSpec()
			spec.Process.ExecCPUAffinity = affinity
			if err := writeJSON(filepath.Join(bundle, "config.json"), spec); err != nil {
				t.Fatal(err)
			}
			t.Chdir(bundle)
			init := wire.Init{Pid: b.init.Process.Pid}
			if err := Prepare(wire.PrepareRequest{Root: b.request.Root, ID: id, Bundle: bundle}, func() (wire.Init, error) { return init, nil }); err != nil {
				t.Fatal(err)
			}
			b.request.Args = []string{"/bin/cat", "/proc/self/cgroup"}
			if got := runHost(t, b.request); got.output != want || got.response.Error != "" {
				t.Errorf("got %+v, want the output %q", got, want)
			}
		})
	}
}

// TestStartWithAFilter: the handler has the container's seccomp filter, and does not inherit the
// file with its program.
func TestStartWithAFilter(t *testing.T) {
	spec := smallSpec()
	spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow,
		Syscalls:      []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}},
	}
	b := newBox(t, spec)
	b.request.Args = []string{"/bin/sh", "-c", `grep Seccomp: /proc/self/status; mkdir /tmp/hookexec-test 2>/dev/null || echo refused; exec ls /proc/self/fd`}
	if got := runHost(t, b.request); got.output != "Seccomp:\t2\nrefused\n0\n1\n2\n3\n" || got.response.Error != "" {
		t.Errorf("got %+v", got)
	}
	if err := os.Remove(b.path(filterFile)); err != nil {
		t.Fatal(err)
	}
	if got := runHost(t, b.request); !strings.Contains(got.response.Error, filterFile) || got.status != 1 || got.output != "" {
		t.Errorf("without its filter: got %+v", got)
	}
	if err := os.WriteFile(b.path(filterFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runHost(t, b.request); !strings.Contains(got.response.Error, "the seccomp program is empty") || got.output != "" {
		t.Errorf("with an empty filter: got %+v", got)
	}
}

// TestStartFails: the host's answer has the error, and no process is left. The error is not in the
// handler's output.
func TestStartFails(t *testing.T) {
	b := newBox(t, smallSpec())
	nowhere := filepath.Join(t.TempDir(), "program")
	b.request.Args = []string{nowhere}
	changed := func(change func(*wire.StartRequest)) wire.StartRequest {
		request := b.request
		change(&request)
		return request
	}
	for name, test := range map[string]struct {
		request any
		says    string
	}{
		"no such program":   {b.request, nowhere},
		"no such container": {changed(func(r *wire.StartRequest) { r.ID = "c2" }), "read the container's process"},
		"no request":        {"", "EOF"},
		"a broken request":  {"nonsense", "invalid character"},
		"an onExit without a shim": {changed(func(r *wire.StartRequest) {
			r.OnExit = &wire.OnExit{Shim: 1, Dir: filepath.Join(t.TempDir(), "onExit")}
		}), "the shim is gone"},
	} {
		t.Run(name, func(t *testing.T) {
			got := runHost(t, test.request)
			if !strings.Contains(got.response.Error, test.says) || got.response.Pid != 0 || got.status != 1 || got.output != "" {
				t.Errorf("got %+v, want %q", got, test.says)
			}
		})
	}
}

// TestStartOfAnOddState: libcontainer panics on it, and the host answers with an error.
func TestStartOfAnOddState(t *testing.T) {
	b := newBox(t, smallSpec())
	if err := os.WriteFile(b.path(stateFile), []byte(`{"config": {"cgroups": null}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runHost(t, b.request); !strings.Contains(got.response.Error, "internal error") || got.status != 1 || got.output != "" {
		t.Errorf("got %+v", got)
	}
}

// TestReady: a handler starts only if the container's init is the process that was prepared for,
// and its cgroup is not frozen.
func TestReady(t *testing.T) {
	b := newBox(t, smallSpec())
	b.request.Args = []string{"/bin/true"}
	want := func(says string) {
		t.Helper()
		_, process, err := load(b.request)
		switch {
		case err == nil && says == "":
			closeFiles(process.ExtraFiles)
		case err == nil || says == "" || !strings.Contains(err.Error(), says):
			t.Errorf("got %v, want %q", err, says)
		}
	}
	want("")
	if _, err := os.Stat("/sys/fs/cgroup/freezer/cgroup.procs"); err == nil {
		b.inFrozenCgroup(func() { want("the container is paused") })
		want("")
	}
	edit := func(change func(state map[string]any)) {
		t.Helper()
		data, err := os.ReadFile(b.path(stateFile))
		if err != nil {
			t.Fatal(err)
		}
		state := map[string]any{}
		if err := json.Unmarshal(data, &state); err != nil {
			t.Fatal(err)
		}
		change(state)
		if err := writeJSON(b.path(stateFile), state); err != nil {
			t.Fatal(err)
		}
	}
	paused := t.TempDir()
	if err := os.WriteFile(filepath.Join(paused, "freezer.state"), []byte("FROZEN"), 0o600); err != nil {
		t.Fatal(err)
	}
	edit(func(state map[string]any) { state["cgroup_paths"] = map[string]string{"freezer": paused} })
	cgroups.TestMode = true // accept any file as a cgroup's
	want("the container is paused")
	cgroups.TestMode = false
	edit(func(state map[string]any) { state["cgroup_paths"] = map[string]string{} })
	edit(func(state map[string]any) { state["init_process_start"] = 1 })
	want("the container's process is gone") // the pid is reused
	if err := os.WriteFile(b.path(stateFile), []byte("["), 0o600); err != nil {
		t.Fatal(err)
	}
	want("load the container's state")
	for text, says := range map[string]string{
		"[": "decode the container's process", "{}": "the container's process is missing",
		`{"Process": {"rlimits": [{"type": "RLIMIT_X"}]}}`:        `unknown type "RLIMIT_X"`,
		`{"Process": {"execCPUAffinity": {"initial": "nobody"}}}`: "CPUAffinity",
	} {
		if err := os.WriteFile(b.path(handlerFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		want(says)
	}
}

// TestLoadLeaksNothing: no error leaves a descriptor open.
func TestLoadLeaksNothing(t *testing.T) {
	b := newBox(t, smallSpec())
	own, err := readExtraState(b.request)
	if err != nil {
		t.Fatal(err)
	}
	own.Filter = true // but the file does not exist
	if err := writeJSON(b.path(handlerFile), own); err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	if _, _, err := load(b.request); err == nil {
		t.Error("it loaded a filter that does not exist")
	}
	if after := descriptors(t); !slices.Equal(after, before) {
		t.Errorf("descriptors are %q, before %q", after, before)
	}
}

// TestNewProcess: it is the container's own process with the handler's command.
func TestNewProcess(t *testing.T) {
	own := &specs.Process{
		Args: []string{"own"}, Env: []string{"A=own"}, Cwd: "/w", SelinuxLabel: "l", NoNewPrivileges: true, ApparmorProfile: "p",
		User:         specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{3, 4}},
		Scheduler:    &specs.Scheduler{Nice: 5},
		IOPriority:   &specs.LinuxIOPriority{Priority: 6},
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 7, Hard: 8}, {Type: "RLIMIT_CORE", Hard: 9}},
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"B"}, Effective: []string{"E"}, Inheritable: []string{"I"}, Permitted: []string{"P"}, Ambient: []string{"A"}},
	}
	got, err := newProcess(wire.StartRequest{Args: []string{"handler"}, Env: []string{"B=handler"}}, own)
	if err != nil {
		t.Fatal(err)
	}
	yes := true
	want := &libcontainer.Process{
		Args: []string{"handler"}, Env: []string{"A=own", "B=handler"}, Cwd: "/w", Label: "l", NoNewPrivileges: &yes, AppArmorProfile: "p",
		UID: 1, GID: 2, AdditionalGroups: []int{3, 4}, Scheduler: own.Scheduler, IOPriority: own.IOPriority,
		Rlimits:      []configs.Rlimit{{Type: unix.RLIMIT_NOFILE, Soft: 7, Hard: 8}, {Type: unix.RLIMIT_CORE, Hard: 9}},
		Capabilities: &configs.Capabilities{Bounding: []string{"B"}, Effective: []string{"E"}, Inheritable: []string{"I"}, Permitted: []string{"P"}, Ambient: []string{"A"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	own.Capabilities = nil
	if got, err := newProcess(wire.StartRequest{}, own); err != nil || !reflect.DeepEqual(got.Capabilities, &configs.Capabilities{}) {
		t.Errorf("without capabilities: got %+v, %v", got.Capabilities, err)
	}
}
