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
	// handlerFile contains the extraState.
	handlerFile = "handler.json"
	// filterFile is the program of the seccomp profile. It exists only with a profile.
	filterFile = "seccomp.bpf"
)

// extraState is what Start needs beside libcontainer's state.
type extraState struct {
	// Process is the container's, whose identity and limits a handler has.
	Process *specs.Process
	// Cgroups are the cgroups by controller that the handler's process joins itself
	// (joinFiles). Then libcontainer's state has none.
	Cgroups map[string]string
	// Filter means that filterFile contains the program of the seccomp profile, and that
	// the profile in libcontainer's state is the one of filter.Reduce.
	Filter bool
}

// Prepare writes the container's state below request.Root. The files contain the
// container's environment, so only root can read them. created waits for the container's
// init; Prepare does as much as possible before it calls created.
//
// Runtimes that wrap another one, such as nvidia-container-runtime, edit config.json while
// they create the container. So the config.json that Prepare reads first may be old or
// incomplete. It is compared after created, and used again if it has changed.
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

// prepareEarly returns nil on error. Prepare then tries again after the container was created, and reports the error.
func prepareEarly(request wire.PrepareRequest) (prepared *preparation) {
	var failed error
	defer recovered(&failed)
	config, _ := readConfig(request.Bundle)
	prepared, _ = prepare(request, config)
	return prepared
}

// preparation is derived from a bundle before its container exists.
type preparation struct {
	of      []byte // the config.json that it was derived from
	process *specs.Process
	config  *configs.Config
	filter  []byte // the program of the seccomp profile; if empty, libcontainer compiles it for each handler
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

// state is libcontainer's. Its own encoding omits an empty map of cgroups, and then
// libcontainer would derive cgroup paths itself.
type state struct {
	*libcontainer.State

	CgroupPaths map[string]string `json:"cgroup_paths"`
}

// newState returns those parts of the state of a running container that libcontainer reads.
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

// newConfig converts the spec, without the parts that are needed only to create a
// container: the less is converted, the fewer specs of other OCI runtimes are refused.
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

// rdtGroup returns only the name of the RDT group that the runtime put the container in.
// libcontainer puts handlers in the same group if it exists, and must not set its limits.
// The default name is the container's ID.
func rdtGroup(own *specs.LinuxIntelRdt, name string) *specs.LinuxIntelRdt {
	if own == nil {
		return nil
	}
	return &specs.LinuxIntelRdt{ClosID: cmp.Or(own.ClosID, name)}
}

// hybridMountpoint is where a machine with cgroup v1 mounts its v2 hierarchy (as
// systemd's and libcontainer's hybridMountpoint).
const hybridMountpoint = "/sys/fs/cgroup/unified"

// cgroupPaths returns the cgroups of a process in the form of libcontainer's State: by
// controller on cgroup v1, a single one under "" on v2.
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
			continue // this machine does not mount the hierarchy
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
// config. It returns nil without a profile, and if libseccomp refuses the profile; then it
// does not change the config, and the handlers fail with libseccomp's error.
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

// writeFile replaces the file atomically, so that Start never reads half of it.
func writeFile(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
