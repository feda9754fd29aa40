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

// process leads its own process group. The pidfd stays this process's even if
// the pid is reused.
type process struct {
	pid   int
	pidfd int
}

// newProcess takes ownership of the pidfd on success. If pid is 0, it is read from /proc
// (proc_pid_fdinfo(5)), which has it until the process is reaped.
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

// isReaped reports whether the process has been waited for. Until then its pid cannot be
// reused.
func (p *process) isReaped() bool {
	return errors.Is(unix.PidfdSendSignal(p.pidfd, 0, nil, 0), unix.ESRCH)
}

// pidfdSignalProcessGroup is PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9
// (pidfd_send_signal(2)).
const pidfdSignalProcessGroup = 1 << 2

// killGroup kills the process group. Kernels before Linux 6.9 can only signal a group by
// its number, which is safe only while the leader is not reaped; so that is checked.
func (p *process) killGroup() error {
	err := unix.PidfdSendSignal(p.pidfd, unix.SIGKILL, nil, pidfdSignalProcessGroup)
	if errors.Is(err, unix.EINVAL) {
		err = p.killGroupByNumber()
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process group %d: %w", p.pid, err)
	}
	return p.thaw()
}

// killGroupByNumber is for kernels older than the flag.
func (p *process) killGroupByNumber() error {
	if err := unix.PidfdSendSignal(p.pidfd, 0, nil, 0); err != nil {
		return err
	}
	return unix.Kill(-p.pid, unix.SIGKILL)
}

// thaw lets the killed group exit if the cgroup v1 freezer has frozen it: it moves the
// group's processes out of the frozen cgroup. The container stays paused.
func (p *process) thaw() error {
	if cgroups.Mode() == cgroups.Unified {
		return nil // v2 kills frozen processes
	}
	freezer := cgroup1.WithHierarchy(cgroup1.SingleSubsystem(cgroup1.Default, cgroup1.Freezer))
	frozen, err := cgroup1.Load(cgroup1.PidPath(p.pid), freezer)
	if err != nil || (frozen.State() != cgroup1.Frozen && frozen.State() != cgroup1.Freezing) {
		return nil //nolint:nilerr // the process is gone, or the machine lacks the controller: nothing to thaw
	}
	thawed, err := cgroup1.Load(cgroup1.RootPath, freezer)
	if err != nil {
		return fmt.Errorf("thaw process group %d: %w", p.pid, err)
	}
	members, err := frozen.Processes(cgroup1.Freezer, false)
	for _, member := range members {
		if group, _ := unix.Getpgid(member.Pid); group == p.pid { // -1 on error
			err = errors.Join(err, thawed.AddProc(uint64(member.Pid), cgroup1.Freezer))
		}
	}
	return err
}

func (p *process) close() {
	_ = unix.Close(p.pidfd)
}
