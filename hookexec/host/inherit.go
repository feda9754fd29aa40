package host

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/host/filter"
	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// The process that becomes the handler inherits, as libcontainer's ExtraFiles, a pipe for
// its last words, the files of the cgroups that it joins, and a seccomp program. It
// recognises them by their kind. It uses them before libcontainer's own steps and closes
// them, so that the handler does not inherit them. execve closes the pipe.

// firstInherited is the descriptor of libcontainer's first ExtraFile.
const firstInherited = 3

// inherited opens the files that take uses.
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

// take uses the inherited files. It must be called by the thread that calls execve,
// because only the calling thread joins the cgroups. Before execve, libcontainer closes
// all descriptors except the lowest ones, as many as it was given ExtraFiles. take frees
// some of these, so a file that is opened afterwards may get such a number and must be
// close-on-exec, as all files that libcontainer opens are.
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

// takeWords makes fd this process's stderr, if it is a pipe: this process and libcontainer
// print errors there that they cannot report otherwise.
func takeWords(fd int) bool {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFIFO {
		return false
	}
	unix.CloseOnExec(fd)
	os.Stderr = os.NewFile(uintptr(fd), "last words")
	return true
}

// takeOne uses one inherited file. It returns false if fd is not one: libcontainer's own
// descriptors follow them, and the first of those is a socket.
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
