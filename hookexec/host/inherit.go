package host

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/host/filter"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// What the process that becomes the handler inherits, as libcontainer's ExtraFiles:
// a pipe for its last words, files of cgroups that it joins, and then a seccomp program.
// It knows them by their kind, uses them up before libcontainer's own steps, and closes
// them, so that none reaches the handler; execve closes the pipe.

// firstInherited is the number of the first of libcontainer's ExtraFiles.
const firstInherited = 3

// inherited opens what take takes.
func inherited(request wire.StartRequest, own *extraState) ([]*os.File, error) {
	files, err := joinFiles(own.Cgroups)
	if err != nil {
		return nil, fmt.Errorf("open the container's cgroups: %w", err)
	}
	if !own.Filter {
		return files, nil
	}
	program, err := os.Open(filepath.Join(request.Root, request.ID, filterFile))
	if err != nil {
		closeFiles(files)
		return nil, err
	}
	return append(files, program), nil
}

// take is to be called by the thread that calls execve: it is that thread that joins
// the cgroups. libcontainer closes, before the handler begins, all but as many of the
// lowest numbers as it was given files: what is opened at those after them here must be
// close-on-exec, as all that libcontainer opens is.
func take() error {
	first := firstInherited
	if takeWords(first) {
		first++
	}
	for fd := first; ; fd++ {
		used, err := takeOne(fd)
		if err != nil || !used {
			return err
		}
		_ = unix.Close(fd)
	}
}

// takeWords makes the pipe for the last words, if fd is one, the place where this
// process and libcontainer print errors that they cannot report otherwise.
func takeWords(fd int) bool {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFIFO {
		return false
	}
	unix.CloseOnExec(fd)
	os.Stderr = os.NewFile(uintptr(fd), "last words")
	return true
}

// takeOne reports whether it was one of those files. The ones of libcontainer that come
// after them begin with a socket.
func takeOne(fd int) (bool, error) {
	var system unix.Statfs_t
	if err := unix.Fstatfs(fd, &system); err != nil {
		return false, nil //nolint:nilerr // it is not open
	}
	if system.Type == unix.CGROUP_SUPER_MAGIC || system.Type == unix.CGROUP2_SUPER_MAGIC {
		if _, err := unix.Write(fd, []byte("0")); err != nil {
			return false, fmt.Errorf("join the container's cgroup: %w", err)
		}
		return true, nil
	}
	var stat unix.Stat_t
	_ = unix.Fstat(fd, &stat) // it is open
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return false, nil
	}
	program := make([]byte, stat.Size)
	if _, err := unix.Pread(fd, program, 0); err != nil {
		return false, fmt.Errorf("read the seccomp program: %w", err)
	}
	return true, filter.Use(program)
}
