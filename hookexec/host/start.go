package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// Start starts the handler with this process's stdio. It returns the handler's pid after
// execve. Before that, the handler's process sends a pidfd of itself over pidfds.
func Start(request wire.StartRequest, pidfds *os.File) (pid int, err error) {
	defer recovered(&err)
	container, process, err := load(request)
	if err != nil {
		return 0, err
	}
	defer func() { closeFiles(process.ExtraFiles) }()
	process.LogLevel = logLevel
	process.Stdout, process.Stderr = os.Stdout, os.Stderr // stdin is /dev/null if it is not set
	process.PidfdSocket = pidfds
	words, writer, err := newWords()
	if err != nil {
		return 0, err
	}
	process.ExtraFiles = append([]*os.File{writer}, process.ExtraFiles...)
	err = container.Run(process)
	_ = writer.Close()
	if text := words.wait(); text != "" {
		return 0, errors.New(text)
	}
	if err != nil {
		return 0, err
	}
	return process.Pid()
}

// logLevel is logrus' Error. The logs of libcontainer's processes are discarded, so they
// should write little: errors are returned anyway.
const logLevel = "2"

func closeFiles(files []*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}

// load reads what Prepare wrote. The caller closes the process's ExtraFiles.
func load(request wire.StartRequest) (*libcontainer.Container, *libcontainer.Process, error) {
	own, err := readExtraState(request)
	if err != nil {
		return nil, nil, err
	}
	process, err := newProcess(request, own.Process)
	if err != nil {
		return nil, nil, err
	}
	container, err := libcontainer.Load(request.Root, request.ID)
	if err != nil {
		return nil, nil, fmt.Errorf("load the container's state: %w", err)
	}
	if err := ready(container, own.Cgroups["freezer"]); err != nil {
		return nil, nil, err
	}
	if process.ExtraFiles, err = inherited(request, own); err != nil {
		return nil, nil, err
	}
	return container, process, nil
}

// ready returns an error if the container's init is not the one that was prepared for: the
// pid may be reused, and the handler must not join another process's namespaces. It also
// returns an error if the container is paused: a process in its cgroup would hang before
// the shim knows of it.
//
// freezer is the path of the freezer's cgroup if libcontainer's state lacks it (cgroup v1).
func ready(container *libcontainer.Container, freezer string) error {
	switch status, err := container.Status(); {
	case err != nil:
		return fmt.Errorf("read the container's status: %w", err)
	case status == libcontainer.Stopped:
		return errors.New("the container's process is gone")
	case status == libcontainer.Paused || frozen(freezer):
		return errors.New("the container is paused")
	}
	return nil
}

// newProcess returns the container's own process with the handler's command: a handler has
// the same identity and limits, never more (docs/spec.md#privilege).
func newProcess(request wire.StartRequest, own *specs.Process) (_ *libcontainer.Process, err error) {
	process := &libcontainer.Process{
		Args:            request.Args,
		Env:             append(own.Env, request.Env...),
		UID:             int(own.User.UID),
		GID:             int(own.User.GID),
		Cwd:             own.Cwd,
		Label:           own.SelinuxLabel,
		NoNewPrivileges: &own.NoNewPrivileges,
		AppArmorProfile: own.ApparmorProfile,
		Scheduler:       own.Scheduler,
		IOPriority:      own.IOPriority,
	}
	for _, group := range own.User.AdditionalGids {
		process.AdditionalGroups = append(process.AdditionalGroups, int(group))
	}
	// Without capabilities in the spec, the handler has none. A nil would mean the host's.
	process.Capabilities = &configs.Capabilities{}
	if caps := own.Capabilities; caps != nil {
		process.Capabilities = &configs.Capabilities{
			Bounding: caps.Bounding, Effective: caps.Effective, Inheritable: caps.Inheritable,
			Permitted: caps.Permitted, Ambient: caps.Ambient,
		}
	}
	for _, rlimit := range own.Rlimits {
		resource, ok := rlimits[rlimit.Type]
		if !ok {
			return nil, fmt.Errorf("the spec's process.rlimits has the unknown type %q", rlimit.Type)
		}
		process.Rlimits = append(process.Rlimits, configs.Rlimit{Type: resource, Hard: rlimit.Hard, Soft: rlimit.Soft})
	}
	if process.CPUAffinity, err = configs.ConvertCPUAffinity(own.ExecCPUAffinity); err != nil {
		return nil, err
	}
	return process, nil
}

// readExtraState reads what Prepare wrote beside libcontainer's state.
func readExtraState(request wire.StartRequest) (*extraState, error) {
	data, err := os.ReadFile(filepath.Join(request.Root, request.ID, handlerFile))
	if err != nil {
		return nil, fmt.Errorf("read the container's process: %w", err)
	}
	var own extraState
	if err := json.Unmarshal(data, &own); err != nil {
		return nil, fmt.Errorf("decode the container's process: %w", err)
	}
	if own.Process == nil {
		return nil, errors.New("the container's process is missing in its state")
	}
	return &own, nil
}

// rlimits maps the OCI spec's names to the constants of getrlimit(2).
var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU,
	"RLIMIT_DATA": unix.RLIMIT_DATA, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE,
	"RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK": unix.RLIMIT_STACK,
}
