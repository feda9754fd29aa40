package filter

/*
#cgo LDFLAGS: -Wl,--wrap=seccomp_export_bpf
#include "wrap.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
	libseccomp "github.com/seccomp/libseccomp-golang"
	"golang.org/x/sys/unix"
)

// errKept is FILTER_KEPT as libseccomp's Go binding returns it.
const errKept = syscall.Errno(-C.FILTER_KEPT)

// Compile returns the program of a profile, in seccomp_export_bpf's format. It does not load
// a filter. It must not be called by two goroutines at once.
func Compile(profile *configs.Seccomp) ([]byte, error) {
	fd, err := unix.MemfdCreate("filter", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "filter")
	defer file.Close()
	C.filter_keep(C.int(fd))
	defer C.filter_keep(-1)
	if _, err := seccomp.InitSeccomp(profile); !errors.Is(err, errKept) {
		return nil, fmt.Errorf("compile the seccomp profile: %w", err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(file)
}

// Use replaces every filter of this process by the given program, which Compile returned.
func Use(program []byte) error {
	if len(program) == 0 {
		return errors.New("the seccomp program is empty")
	}
	C.filter_use(C.CBytes(program), C.size_t(len(program))) // never freed, because it is needed until execve
	return nil
}

// forget undoes Use.
func forget() { C.filter_use(nil, 0) }

// Reduce returns a smaller profile that results in the same filter after Use of the given
// profile's program. It has only the rules that libcontainer still reads: the highest
// system call of each architecture (newer ones are answered with ENOSYS), and those that
// notify. The others would only be encoded and decoded, three times.
func Reduce(profile *configs.Seccomp) (*configs.Seccomp, error) {
	native, err := libseccomp.GetNativeArch()
	if err != nil {
		return nil, err
	}
	architectures := []libseccomp.ScmpArch{native}
	for _, name := range profile.Architectures {
		architecture, err := libseccomp.GetArchFromString(name)
		if err != nil {
			return nil, err
		}
		architectures = append(architectures, architecture)
	}
	reduced := *profile
	reduced.Syscalls = nil
	keep := func(call *configs.Syscall) {
		if call != nil && !slices.Contains(reduced.Syscalls, call) {
			reduced.Syscalls = append(reduced.Syscalls, call)
		}
	}
	for _, architecture := range architectures {
		keep(highest(profile.Syscalls, architecture))
	}
	for _, call := range profile.Syscalls {
		if call.Action == configs.Notify {
			keep(call)
		}
	}
	return &reduced, nil
}

// highest returns the rule of the system call with the highest number, or nil if the
// architecture has none of the system calls.
func highest(calls []*configs.Syscall, architecture libseccomp.ScmpArch) *configs.Syscall {
	var found *configs.Syscall
	var number libseccomp.ScmpSyscall
	for _, call := range calls {
		n, err := libseccomp.GetSyscallFromNameByArch(call.Name, architecture)
		if err == nil && n > number { // like libcontainer, ignore unknown ones
			found, number = call, n
		}
	}
	return found
}
