package hookexec

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"golang.org/x/sys/unix"
)

// process is a leader of a process group of its own. The pidfd keeps meaning
// this process when its number has been given to another one.
type process struct {
	pid   int
	pidfd int
}

// newProcess takes a pidfd over. Where pid is not known, /proc tells it as seen
// from the shim (proc_pid_fdinfo(5)), as long as the process has not been reaped.
func newProcess(pidfd, pid int) (*process, error) {
	if pid > 0 {
		return &process{pid: pid, pidfd: pidfd}, nil
	}
	data, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(pidfd))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if number, ok := strings.CutPrefix(line, "Pid:"); ok {
			if pid, _ := strconv.Atoi(strings.TrimSpace(number)); pid > 0 { // 0 on error
				return &process{pid: pid, pidfd: pidfd}, nil
			}
		}
	}
	return nil, errors.New("the process has been reaped")
}

// isReaped reports whether the process has been waited for. Until then no other
// process has its pid.
func (p *process) isReaped() bool {
	return errors.Is(unix.PidfdSendSignal(p.pidfd, 0, nil, 0), unix.ESRCH)
}

// pidfdSignalProcessGroup is PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9
// (pidfd_send_signal(2)).
const pidfdSignalProcessGroup = 1 << 2

// killGroup ends the process group. Older kernels know a group by number only,
// so it is used only while the leader is shown to be unreaped.
func (p *process) killGroup() error {
	err := unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, pidfdSignalProcessGroup)
	if errors.Is(err, unix.EINVAL) {
		if err = unix.PidfdSendSignal(p.pidfd, 0, nil, 0); err == nil {
			err = unix.Kill(-p.pid, unix.SIGKILL)
		}
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process group %d: %w", p.pid, err)
	}
	return p.thaw()
}

// thaw lets the killed group die where the v1 freezer holds it: its processes
// are moved out of the frozen cgroup, and the container stays paused.
func (p *process) thaw() error {
	if cgroups.Mode() == cgroups.Unified {
		return nil // v2 kills frozen processes
	}
	freezer := cgroup1.WithHierarchy(cgroup1.SingleSubsystem(cgroup1.Default, cgroup1.Freezer))
	frozen, err := cgroup1.Load(cgroup1.PidPath(p.pid), freezer)
	if err != nil || (frozen.State() != cgroup1.Frozen && frozen.State() != cgroup1.Freezing) {
		return nil //nolint:nilerr // gone, or a machine without that controller: there is nothing to thaw
	}
	thawed, err := cgroup1.Load(cgroup1.RootPath, freezer)
	if err != nil {
		return fmt.Errorf("thaw process group %d: %w", p.pid, err)
	}
	members, err := frozen.Processes(cgroup1.Freezer, false)
	for _, member := range members {
		if group, groupErr := unix.Getpgid(member.Pid); groupErr == nil && group == p.pid {
			err = errors.Join(err, thawed.AddProc(uint64(member.Pid), cgroup1.Freezer))
		}
	}
	return err
}

func (p *process) close() {
	_ = unix.Close(p.pidfd)
}
