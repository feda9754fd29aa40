package host

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// command runs the host as a program, and returns its stderr.
func command(t *testing.T, stdin string, args ...string) (stderr string, status int) {
	t.Helper()
	host := exec.Command("/proc/self/exe", args...)
	host.Env = []string{asHost + "=1", "GORACE=atexit_sleep_ms=0"}
	host.Stdin = strings.NewReader(stdin)
	out, err := host.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), host.ProcessState.ExitCode()
}

// TestCommands: an error is reported on stderr and by the exit status.
func TestCommands(t *testing.T) {
	bundle := t.TempDir()
	if err := writeJSON(filepath.Join(bundle, "config.json"), smallSpec()); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(bundle+".lock", 0o700); err != nil {
		t.Fatal(err)
	}
	encoded := func(values ...any) string {
		text := ""
		for _, value := range values {
			data, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			text += string(data)
		}
		return text
	}
	request := wire.PrepareRequest{Root: filepath.Join(bundle, "lifecycle"), ID: id, Bundle: bundle}
	for name, test := range map[string]struct {
		stdin string
		args  []string
		says  string
	}{
		"none":                     {"", nil, "usage: "},
		"another":                  {"", []string{"x"}, "usage: "},
		"prepare nothing":          {"", []string{"prepare"}, "decode the request: EOF"},
		"prepare, and no init":     {encoded(request), []string{"prepare"}, "wait for the container: EOF"},
		"prepare, and a dead init": {encoded(request, wire.Init{Pid: 1 << 30}), []string{"prepare"}, "the container's init is gone"},
		"prepare":                  {encoded(request, wire.Init{Pid: os.Getpid()}), []string{"prepare"}, ""},
		"clean nothing":            {"", []string{"clean"}, "decode the request: EOF"},
		"clean without a lock":     {encoded(wire.OnExit{Dir: bundle}), []string{"clean"}, ".lock"},
		"clean":                    {encoded(wire.OnExit{Dir: filepath.Join(bundle, "none", "onExit")}), []string{"clean"}, ""},
		"init, by hand":            {"", []string{"init"}, ""}, // libcontainer's own error, or none
	} {
		t.Run(name, func(t *testing.T) {
			text, status := command(t, test.stdin, test.args...)
			switch {
			case name == "init, by hand":
				if status == 0 {
					t.Error("it succeeded")
				}
			case !strings.Contains(text, test.says), (text == "") != (test.says == ""), (status == 0) != (test.says == ""), status > 1:
				t.Errorf("got %q, %d, want %q", text, status, test.says)
			}
		})
	}
}

// TestRecovered: a panic becomes an error. Without one the error is not changed.
func TestRecovered(t *testing.T) {
	attempt := func(panics bool) (err error) {
		defer recovered(&err)
		if panics {
			panic("x")
		}
		return errors.ErrUnsupported
	}
	if err := attempt(true); err == nil || err.Error() != "internal error: x" {
		t.Errorf("got %v", err)
	}
	if err := attempt(false); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}

// TestSpecsThatCannotBeUsed: the preparation returns an error and writes no state.
func TestSpecsThatCannotBeUsed(t *testing.T) {
	for text, says := range map[string]string{
		"":                             "decode the bundle's config.json",
		`{"linux": {}}`:                "no process or no linux section",
		`{"process": {}}`:              "no process or no linux section",
		`{"process": {}, "linux": {}}`: "cannot be used for handlers",
	} {
		bundle := t.TempDir()
		t.Chdir(bundle)
		if err := os.WriteFile("config.json", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(bundle, "lifecycle")
		if err := Prepare(wire.PrepareRequest{Root: root, ID: id, Bundle: bundle}, this); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %v, want %q", text, err, says)
		}
		if _, err := readSpec(bundle); (err == nil) != strings.Contains(says, "handlers") {
			t.Errorf("%q: readConfig: %v", text, err)
		}
		if _, err := os.Stat(root); !os.IsNotExist(err) {
			t.Errorf("%q: a state was written: %v", text, err)
		}
	}
	nowhere := filepath.Join(t.TempDir(), "none")
	if err := Prepare(wire.PrepareRequest{Bundle: nowhere, ID: id, Root: t.TempDir()}, this); !os.IsNotExist(err) {
		t.Errorf("without a bundle: %v", err)
	}
	if _, err := readSpec(nowhere); !os.IsNotExist(err) {
		t.Errorf("without a bundle: %v", err)
	}
	if err := Prepare(wire.PrepareRequest{}, func() (wire.Init, error) { panic("x") }); err == nil || err.Error() != "internal error: x" {
		t.Errorf("after a panic: %v", err)
	}
	if _, err := newConfig(wire.PrepareRequest{Bundle: nowhere}, smallSpec()); !os.IsNotExist(err) {
		t.Errorf("without a bundle: %v", err)
	}
	gone := errors.New("gone")
	if err := Prepare(wire.PrepareRequest{}, func() (wire.Init, error) { return wire.Init{}, gone }); !errors.Is(err, gone) {
		t.Errorf("without a container: %v", err)
	}
}

// TestState: the state has what libcontainer reads, and nothing that is needed only to create
// the container.
func TestState(t *testing.T) {
	spec := smallSpec()
	spec.Mounts, spec.Hooks = []specs.Mount{{Destination: "/x", Type: "nonsense"}}, &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/x"}}}
	spec.Linux.Devices, spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = []specs.LinuxDevice{{Path: "/dev/x", Type: "nonsense"}}, []string{"/x"}, []string{"/x"}
	spec.Linux.CgroupsPath, spec.Linux.RootfsPropagation, spec.Linux.Sysctl = "a:b:c", "nonsense", map[string]string{"x": "y"}
	spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{"x": {}}
	spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Type: "nonsense"}}}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace})
	spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0"} // then the cgroups are in libcontainer's state
	bundle := t.TempDir()
	if err := writeJSON(filepath.Join(bundle, "config.json"), spec); err != nil {
		t.Fatal(err)
	}
	t.Chdir(bundle)
	request := wire.PrepareRequest{Root: filepath.Join(bundle, "lifecycle"), ID: id, Bundle: bundle, NoNewKeyring: true}
	if err := Prepare(request, this); err != nil {
		t.Fatal(err)
	}
	container, err := libcontainer.Load(request.Root, id)
	if err != nil {
		t.Fatal(err)
	}
	config := container.Config()
	if len(config.Mounts)+len(config.Hooks)+len(config.Devices)+len(config.MaskPaths)+len(config.ReadonlyPaths)+len(config.Sysctl)+len(config.Networks)+len(config.NetDevices)+config.RootPropagation != 0 ||
		config.Cgroups.Systemd || config.Cgroups.Path != "" || config.Cgroups.Name != id || len(config.Cgroups.Devices) > 0 || !config.NoNewKeyring {
		t.Errorf("the state has %+v, %+v", config, config.Cgroups)
	}
	state, err := container.State()
	if err != nil {
		t.Fatal(err)
	}
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	if len(state.CgroupPaths) == 0 {
		t.Error("the state has no cgroups")
	}
	for controller, path := range own {
		if got, ok := state.CgroupPaths[controller]; ok && (!strings.HasSuffix(got, strings.TrimSuffix(path, "/")) || !isCgroup(got)) {
			t.Errorf("the cgroup of %q is %q, want the suffix %q", controller, got, path)
		}
	}
	if state.InitProcessPid != os.Getpid() || state.InitProcessStartTime == 0 || state.Created.IsZero() {
		t.Errorf("the state is %+v", state)
	}
}

func isCgroup(path string) bool {
	_, err := os.Stat(filepath.Join(path, "cgroup.procs"))
	return err == nil
}

// TestStateWithoutCgroups: if the handler joins its cgroups itself, libcontainer must not
// move it again, which would block the machine's forks.
func TestStateWithoutCgroups(t *testing.T) {
	b := newBox(t, smallSpec())
	container, err := libcontainer.Load(b.request.Root, id)
	if err != nil {
		t.Fatal(err)
	}
	own, err := readExtraState(b.request)
	if err != nil {
		t.Fatal(err)
	}
	state, err := container.State()
	if err != nil {
		t.Fatal(err)
	}
	if byItself := joinsItself(&specs.Process{}); (len(own.Cgroups) > 0) != byItself || (len(state.CgroupPaths) == 0) != byItself {
		t.Errorf("the handler joins %q, and libcontainer %q", own.Cgroups, state.CgroupPaths)
	}
}

// TestStateThatCannotBeWritten: the preparation fails if any of its files cannot be written.
func TestStateThatCannotBeWritten(t *testing.T) {
	spec := smallSpec()
	spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno}}}
	for _, name := range []string{"", filterFile, handlerFile, stateFile} {
		bundle := t.TempDir()
		t.Chdir(bundle)
		root := filepath.Join(bundle, "lifecycle")
		err := writeJSON("config.json", spec)
		if name == "" {
			err = errorsOf(err, os.WriteFile(root, nil, 0o600))
		} else {
			err = errorsOf(err, os.MkdirAll(filepath.Join(root, id, name+".new"), 0o700))
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := Prepare(wire.PrepareRequest{Root: root, ID: id, Bundle: bundle}, this); err == nil || !strings.Contains(err.Error(), filepath.Join(root, name)[:len(root)]) {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

// TestTakeFilter: a profile is reduced if it has a program, and otherwise not changed.
func TestTakeFilter(t *testing.T) {
	if takeFilter(&configs.Config{}) != nil {
		t.Error("a program without a profile")
	}
	profile := &configs.Seccomp{DefaultAction: configs.Allow, Syscalls: []*configs.Syscall{{Name: "mkdir", Action: configs.Errno}, {Name: "mkdirat", Action: configs.Errno}}}
	config := &configs.Config{Seccomp: profile}
	if program := takeFilter(config); len(program) == 0 || len(config.Seccomp.Syscalls) != 1 || len(profile.Syscalls) != 2 {
		t.Errorf("program of %d bytes, profile %+v", len(program), config.Seccomp)
	}
	refused := &configs.Seccomp{DefaultAction: 99, Syscalls: profile.Syscalls}
	config.Seccomp = refused
	if program := takeFilter(config); program != nil || config.Seccomp != refused {
		t.Errorf("program of %d bytes, profile %+v", len(program), config.Seccomp)
	}
}

// TestRDTGroup: a handler is in its container's group, and must not set the group's limits.
func TestRDTGroup(t *testing.T) {
	for name, test := range map[string]struct {
		own  *specs.LinuxIntelRdt
		want string
	}{
		"none":         {nil, ""},
		"one by name":  {&specs.LinuxIntelRdt{ClosID: "gold"}, "gold"},
		"its own":      {&specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=10", Schemata: []string{"x"}}, id},
		"with monitor": {&specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true}, "gold"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := smallSpec()
			spec.Linux.IntelRdt = test.own
			t.Chdir(t.TempDir())
			config, err := newConfig(wire.PrepareRequest{ID: id, Bundle: "."}, spec)
			if err != nil {
				t.Fatal(err)
			}
			onExit := onExitSpec(spec, wire.StartRequest{ID: id, OnExit: &wire.OnExit{}}).Linux.IntelRdt
			if test.want == "" {
				if config.IntelRdt != nil || onExit != nil {
					t.Errorf("got %+v, for an onExit %+v", config.IntelRdt, onExit)
				}
				return
			}
			if got := *config.IntelRdt; got.ClosID != test.want || got.L3CacheSchema+got.MemBwSchema != "" || len(got.Schemata) > 0 || got.EnableMonitoring {
				t.Errorf("got %+v", got)
			}
			if onExit.ClosID != test.want || onExit.L3CacheSchema+onExit.MemBwSchema != "" || len(onExit.Schemata) > 0 || onExit.EnableMonitoring {
				t.Errorf("an onExit has %+v", onExit)
			}
		})
	}
}

// TestWriteFile: the file is replaced atomically, and only root can read it.
func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := errorsOf(os.WriteFile(path, []byte("a longer one"), 0o644), writeFile(path, []byte("new"))); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); string(data) != "new" || err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %q, %v, %v", data, info.Mode(), err)
	}
	if _, err := os.Stat(path + ".new"); !os.IsNotExist(err) {
		t.Errorf("a temporary file is left: %v", err)
	}
	if err := writeFile(filepath.Join(t.TempDir(), "none", "x"), nil); !os.IsNotExist(err) {
		t.Errorf("got %v", err)
	}
	for _, dir := range []string{path + "-1", path + "-2.new"} { // instead of the file, and of its temporary file
		if err := os.MkdirAll(filepath.Join(dir, "full"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := writeJSON(strings.TrimSuffix(dir, ".new"), 1); err == nil {
			t.Errorf("the directory %s was replaced", dir)
		}
	}
	if err := writeJSON(path, func() {}); err == nil {
		t.Error("writeJSON accepts a function")
	}
}
