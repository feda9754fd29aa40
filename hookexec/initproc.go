package hookexec

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// exitWait is how long a failed handler's result waits for a container that is exiting
// (docs/spec.md#exit-first).
const exitWait = time.Second

// Init is the container's first process.
type Init struct {
	Pid int
	// Exited is closed by the shim after the process was reaped.
	Exited <-chan struct{}

	startTime string
}

// NewInit records the start time of the process that has the pid now, to recognise if the
// pid is reused later.
func NewInit(pid int, exited <-chan struct{}) (*Init, error) {
	stat, err := readStat(pid)
	if err != nil {
		return nil, err
	}
	return &Init{Pid: pid, Exited: exited, startTime: stat.startTime}, nil
}

// exiting reports whether the process is exiting or gone. When the init of a private pid
// namespace exits, the kernel kills the handlers in it before the init can be reaped.
func (i *Init) exiting() bool {
	const pfExiting = 0x4 // PF_EXITING, linux/sched.h
	stat, err := readStat(i.Pid)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
	}
	return stat.startTime != i.startTime || stat.flags&pfExiting != 0
}

// lives reports whether a process that seems to be exiting has only ended its first
// thread, which programs may do on purpose.
func (i *Init) lives() bool {
	stat, _ := readStat(i.Pid) // empty on error
	return i.livesBy(stat)
}

func (i *Init) livesBy(stat procStat) bool { return stat.startTime == i.startTime && stat.threads > 1 }

// Ended reports whether the container is exiting or has exited. If it is exiting, Ended
// waits up to exitWait, so that the shim knows of the exit before the handler's result.
func (i *Init) Ended(ctx context.Context) bool {
	if !i.exiting() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exitWait)
	defer cancel()
	select {
	case <-i.Exited:
		return true
	case <-ctx.Done():
		return !i.lives()
	}
}

type procStat struct {
	startTime string // in clock ticks since boot, proc(5)
	flags     uint64 // PF_*
	threads   uint64
}

// readStat reads /proc/PID/stat, proc(5).
func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return procStat{}, err
	}
	return parseStat(string(data))
}

// parseStat counts the fields from the last parenthesis: the command's name before it may
// contain any character.
func parseStat(text string) (procStat, error) {
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	const flags, threads, startTime = 9 - 3, 20 - 3, 22 - 3 // fields (9), (20) and (22); state is (3)
	if len(fields) <= startTime {
		return procStat{}, os.ErrNotExist
	}
	stat := procStat{startTime: fields[startTime]}
	var err error
	if stat.flags, err = strconv.ParseUint(fields[flags], 10, 64); err != nil {
		return procStat{}, err
	}
	stat.threads, err = strconv.ParseUint(fields[threads], 10, 64)
	return stat, err
}
