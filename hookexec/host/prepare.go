package host

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runc/libcontainer/system"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/host/filter"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

const (
	// stateFile is the name that libcontainer.Load reads.
	stateFile = "state.json"
	// handlerFile holds what libcontainer's state has no place for.
	handlerFile = "handler.json"
	// filterFile is the program of the seccomp profile, where there is one.
	filterFile = "seccomp.bpf"
)

// extraState is what a Start needs beside libcontainer's state.
type extraState struct {
	// Process of the container, the measure of what a handler may have.
	Process *specs.Process
	// Cgroups of cgroup v1, by controller, which the handler's process joins
	// itself (join). libcontainer's state has none then.
	Cgroups map[string]string
	// Filter: the seccomp profile of libcontainer's state is filter.Reduce's, and
	// filterFile has its program.
	Filter bool
}

// Prepare writes the container's state under request.Root. The files hold the
// container's environment, so nobody but root can read them. created returns the
// container's init when there is one; what can be done without is done before.
//
// Runtimes that wrap another edit config.json while they create the container, as
// nvidia-container-runtime does: what it says then, or half says, is not yet the
// container's, and is read again if it has changed.
func Prepare(request wire.PrepareRequest, created func() (wire.Init, error)) (err error) {
	defer recovered(&err)
	prepared := prepareEarly(request)
	init, err := created()
	if err != nil {
		return err
	}
	config, err := readConfig(request.Bundle)
	if err != nil {
		return err
	}
	if prepared == nil || !bytes.Equal(config, prepared.of) {
		if prepared, err = prepare(request, config); err != nil {
			return err
		}
	}
	return prepared.write(request, init)
}

// prepareEarly returns nil if it fails: what is wrong is still wrong when there is the container.
func prepareEarly(request wire.PrepareRequest) (prepared *preparation) {
	var failed error
	defer recovered(&failed)
	config, _ := readConfig(request.Bundle)
	prepared, _ = prepare(request, config)
	return prepared
}

// preparation is what is made of a bundle without its container.
type preparation struct {
	of      []byte // the config.json
	process *specs.Process
	config  *configs.Config
	filter  []byte // the program of the seccomp profile; empty: libcontainer makes it each time
}

func prepare(request wire.PrepareRequest, data []byte) (*preparation, error) {
	spec, err := decodeSpec(data)
	if err != nil {
		return nil, err
	}
	config, err := newConfig(request, spec)
	if err != nil {
		return nil, fmt.Errorf("the spec cannot be used for handlers: %w", err)
	}
	return &preparation{of: data, process: spec.Process, config: config, filter: takeFilter(config)}, nil
}

func (p *preparation) write(request wire.PrepareRequest, init wire.Init) error {
	state, err := newState(init.Pid, p.config)
	if err != nil {
		return err
	}
	dir := filepath.Join(request.Root, request.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	own := extraState{Process: p.process, Filter: len(p.filter) > 0}
	if own.Filter {
		if err := writeFile(filepath.Join(dir, filterFile), p.filter); err != nil {
			return err
		}
	}
	if joinsItself(p.process) {
		own.Cgroups, state.CgroupPaths = state.CgroupPaths, map[string]string{}
	}
	if err := writeJSON(filepath.Join(dir, handlerFile), own); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, stateFile), state)
}

func readConfig(bundle string) ([]byte, error) {
	return os.ReadFile(filepath.Join(bundle, "config.json"))
}

func readSpec(bundle string) (*specs.Spec, error) {
	data, err := readConfig(bundle)
	if err != nil {
		return nil, err
	}
	return decodeSpec(data)
}

func decodeSpec(data []byte) (*specs.Spec, error) {
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("decode the bundle's config.json: %w", err)
	}
	if spec.Process == nil || spec.Linux == nil {
		return nil, errors.New("the bundle's config.json has no process or no linux section")
	}
	return &spec, nil
}

// state is libcontainer's. Written by itself it would leave out an empty map of
// cgroups, and its reader make up cgroups of its own.
type state struct {
	*libcontainer.State

	CgroupPaths map[string]string `json:"cgroup_paths"`
}

// newState is what libcontainer reads of the state that runc writes of a running container.
func newState(pid int, config *configs.Config) (*state, error) {
	stat, err := system.Stat(pid)
	if err != nil {
		return nil, fmt.Errorf("the container's init is gone: %w", err)
	}
	paths, err := cgroupPaths(pid)
	if err != nil {
		return nil, fmt.Errorf("find the container's cgroups: %w", err)
	}
	return &state{
		State: &libcontainer.State{
			BaseState: libcontainer.BaseState{
				InitProcessPid:       pid,
				InitProcessStartTime: stat.StartTime,
				Created:              time.Now(),
				Config:               *config,
			},
		},
		CgroupPaths: paths,
	}, nil
}

// newConfig converts the spec, without what only the making of a container
// needs: the less is converted, the less another OCI runtime's spec can fail it.
func newConfig(request wire.PrepareRequest, spec *specs.Spec) (*configs.Config, error) {
	reduced, linux := *spec, *spec.Linux
	reduced.Mounts, reduced.Hooks = nil, nil
	linux.Devices, linux.Resources, linux.CgroupsPath = nil, nil, ""
	linux.MaskedPaths, linux.ReadonlyPaths, linux.Sysctl = nil, nil, nil
	linux.NetDevices, linux.RootfsPropagation = nil, ""
	linux.IntelRdt = rdtGroup(linux.IntelRdt, request.ID)
	reduced.Linux = &linux
	if err := os.Chdir(request.Bundle); err != nil { // specconv resolves root.path against it
		return nil, err
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:   request.ID,
		NoNewKeyring: request.NoNewKeyring,
		Spec:         &reduced,
	})
	if err != nil {
		return nil, err
	}
	config.Devices, config.Networks = nil, nil
	config.Cgroups.Resources = &cgroups.Resources{}
	return config, nil
}

// rdtGroup is what names the RDT group that the container's runtime has put it in, which
// libcontainer puts handlers in too, if it is there: the group's limits are not the
// handlers' to set. A group without a name has its container's.
func rdtGroup(own *specs.LinuxIntelRdt, name string) *specs.LinuxIntelRdt {
	if own == nil {
		return nil
	}
	return &specs.LinuxIntelRdt{ClosID: cmp.Or(own.ClosID, name)}
}

// hybridMountpoint is where a machine with cgroup v1 has its v2 hierarchy
// (systemd's, and libcontainer's hybridMountpoint).
const hybridMountpoint = "/sys/fs/cgroup/unified"

// cgroupPaths of a process, as libcontainer's State has them: by controller on
// cgroup v1, a single one under "" on v2.
func cgroupPaths(pid int) (map[string]string, error) {
	own, err := cgroups.ParseCgroupFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return nil, err
	}
	if cgroups.IsCgroup2UnifiedMode() {
		return map[string]string{"": filepath.Join("/sys/fs/cgroup", own[""])}, nil
	}
	paths := map[string]string{}
	for controller, path := range own {
		if controller == "" {
			if cgroups.IsCgroup2HybridMode() {
				paths[""] = filepath.Join(hybridMountpoint, path)
			}
			continue
		}
		mountpoint, root, err := cgroups.FindCgroupMountpointAndRoot("", controller)
		if cgroups.IsNotFound(err) {
			continue // a hierarchy that this machine does not mount
		}
		if err != nil {
			return nil, err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return nil, err
		}
		paths[controller] = filepath.Join(mountpoint, relative)
	}
	return paths, nil
}

// takeFilter returns the program of the seccomp profile, and reduces the profile in the
// config. It returns nil if there is none. A profile that libseccomp refuses is left as it
// is: its handlers fail, and say why.
func takeFilter(config *configs.Config) []byte {
	program, err := filter.Compile(config.Seccomp)
	if err != nil {
		return nil
	}
	reduced, err := filter.Reduce(config.Seccomp)
	if err != nil {
		return nil
	}
	config.Seccomp = reduced
	return program
}

func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return writeFile(path, data)
}

// writeFile replaces path as a whole, so that a Start never reads half a file.
func writeFile(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
