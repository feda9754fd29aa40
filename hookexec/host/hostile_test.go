package host

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

const id = "c1"

// joinsUsers reports whether the spec joins a namespace by its path. libcontainer enters a user
// namespace to read its mappings, and a fuzz input must not name the machine's files.
func joinsUsers(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Path != "" })
}

// FuzzPrepare: from any config.json, Prepare returns an error, or writes a state that a handler
// can be started from and only root can read. The handler has no more rights than the
// container's own process.
func FuzzPrepare(f *testing.F) {
	process := `"process": {"args": ["x"], "cwd": "/", "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3]}, "capabilities": {"bounding": ["CAP_KILL"], "inheritable": ["CAP_X"]},
		"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 18446744073709551615}], "noNewPrivileges": true, "apparmorProfile": "p", "selinuxLabel": "a:b:c", "oomScoreAdj": -999999999999}`
	for _, text := range []string{
		"", "null", "{}", `{"process": null, "linux": {}}`, `{"process": {}, "linux": {}}`, `{"process": {}, "linux": {}, "root": {}}`,
		`{"process": {}, "linux": {}, "root": {"path": "../../.."}}`,
		`{` + process + `, "root": {"path": "r"}, "linux": {"namespaces": [{"type": "pid"}, {"type": "user"}, {"type": "time"}], "uidMappings": [{"containerID": 0, "hostID": 4294967295, "size": 4294967295}]}}`,
		`{` + process + `, "root": {"path": "r"}, "linux": {"namespaces": [{"type": "x"}]}}`,
		`{` + process + `, "root": {"path": "r"}, "linux": {"seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["x"], "syscalls": [{"names": ["mkdir"], "args": [null]}], "listenerPath": "/x"}}}`,
		`{` + process + `, "root": {"path": "r"}, "linux": {"seccomp": {"defaultAction": "SCMP_ACT_NOTIFY", "flags": ["x"]}, "personality": {"domain": "x"}, "memoryPolicy": {"mode": "x"}, "intelRdt": {}, "netDevices": {"x": null}}}`,
		`{"process": {"scheduler": {"policy": "x"}, "ioPriority": {"class": "x"}, "execCPUAffinity": {"initial": "-"}, "rlimits": [{"type": "x"}]}, "root": {"path": "/"}, "linux": {"timeOffsets": {"x": {"secs": -1}}}}`,
		`{"process": {"user": {"uid": 4294967295}}, "root": {"path": "/"}, "linux": {}, "mounts": [{"source": "/"}], "hooks": {"prestart": [{"path": "/x"}]}, "annotations": {"org.systemd.property.X": "x"}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, config []byte) {
		var spec specs.Spec
		if json.Unmarshal(config, &spec) == nil && joinsUsers(&spec) {
			t.Skip()
		}
		bundle := t.TempDir()
		t.Chdir(bundle) // Prepare does too; this restores it afterwards
		if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600); err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(bundle, "lifecycle")
		if err := Prepare(wire.PrepareRequest{Root: root, ID: id, Bundle: bundle}, this); err != nil {
			return
		}
		wantPrivate(t, root)
		request := wire.StartRequest{Root: root, ID: id, Args: []string{"x"}}
		own, err := readExtraState(request)
		if err != nil {
			t.Fatal(err)
		}
		process, err := newProcess(request, own.Process)
		if err == nil {
			wantNoMore(t, process, spec.Process)
		}
		if _, err := libcontainer.Load(root, id); err != nil {
			t.Errorf("the prepared state cannot be loaded: %v", err)
		}
	})
}

// wantPrivate checks the modes: the files contain the container's environment.
func wantPrivate(t *testing.T, root string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		files++
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has the mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil || files != 4 {
		t.Errorf("%d files and directories, %v", files, err)
	}
}

// wantNoMore compares a handler with the container's own process.
func wantNoMore(t *testing.T, process *libcontainer.Process, own *specs.Process) {
	t.Helper()
	if process.UID != int(own.User.UID) || process.GID != int(own.User.GID) || len(process.AdditionalGroups) != len(own.User.AdditionalGids) ||
		process.Label != own.SelinuxLabel || process.AppArmorProfile != own.ApparmorProfile || *process.NoNewPrivileges != own.NoNewPrivileges || len(process.Rlimits) != len(own.Rlimits) {
		t.Errorf("the handler is %+v, the container's process %+v", process, own)
	}
	allowed := own.Capabilities
	if allowed == nil {
		allowed = &specs.LinuxCapabilities{}
	}
	for _, set := range [][2][]string{
		{process.Capabilities.Bounding, allowed.Bounding},
		{process.Capabilities.Effective, allowed.Effective},
		{process.Capabilities.Inheritable, allowed.Inheritable},
		{process.Capabilities.Permitted, allowed.Permitted},
		{process.Capabilities.Ambient, allowed.Ambient},
	} {
		if len(set[0])+len(set[1]) > 0 && !reflect.DeepEqual(set[0], set[1]) {
			t.Errorf("the handler has the capabilities %v, the container's process %v", set[0], set[1])
		}
	}
}

// FuzzStateFiles: the host can read the files that it wrote. Any other content results at most
// in an error.
func FuzzStateFiles(f *testing.F) {
	dir := f.TempDir()
	config := `{"process": {"cwd": "/", "user": {}}, "root": {"path": "r"}, "linux": {"namespaces": [{"type": "pid"}]}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		f.Fatal(err)
	}
	before, err := os.Getwd()
	if err != nil {
		f.Fatal(err)
	}
	if err := Prepare(wire.PrepareRequest{Root: filepath.Join(dir, "root"), ID: id, Bundle: dir}, this); err != nil {
		f.Fatal(err)
	}
	if err := os.Chdir(before); err != nil {
		f.Fatal(err)
	}
	written := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, "root", id, name))
		if err != nil {
			f.Fatal(err)
		}
		return data
	}
	f.Add(written(handlerFile), written(stateFile))
	for _, text := range []string{"", "null", "{}", "[", `{"init_process_pid": -1}`, `{"config": {"cgroups": null}}`, `{"config": {"cgroups": {"path": "../.."}}, "cgroup_paths": {"freezer": "/dev/null", "": "x"}}`} {
		f.Add([]byte(text), written(stateFile))
		f.Add(written(handlerFile), []byte(text))
	}
	f.Fuzz(func(t *testing.T, process, state []byte) {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, id), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{handlerFile: process, stateFile: state} {
			if err := os.WriteFile(filepath.Join(root, id, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_ = func() (err error) { // success and errors are fine, but it must not exit
			defer recovered(&err) // as in Start
			_, started, err := load(wire.StartRequest{Root: root, ID: id, Args: []string{"x"}})
			if err == nil {
				closeFiles(started.ExtraFiles)
			}
			return err
		}()
	})
}

// this process, in the place of a container's.
func this() (wire.Init, error) { return wire.Init{Pid: os.Getpid()}, nil }
