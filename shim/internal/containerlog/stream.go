package containerlog

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Why a container's stdout cannot be written to.
var (
	errNone     = errors.New("the container has no stdout")
	errTerminal = errors.New("the container has a terminal, whose logger has a pipe that cannot be recognised")
	errUnknown  = errors.New("which pipe leads to the logger is not known of a restored container")
	errClosed   = errors.New("the shim does not hold the container's stdout open: the container, or its logger, has closed it")
)

// Stream is where a container's stdout goes. It holds no descriptor.
type Stream struct {
	file identity
	// newline ends a line. In a terminal's stream it is what a terminal's driver writes,
	// because the client's terminal is in raw mode.
	newline string
	// err says why there is no stream, nil if there is one.
	err error
}

// identity of a file, valid while it is open anywhere.
type identity struct{ device, inode uint64 }

// Of returns the stream of a container that has just been created, with the stdout of its
// request. No code of the container's runs yet. pid is its init's, 0 if it has none.
func Of(stdout string, terminal bool, pid int) Stream {
	stream := Stream{newline: "\n"}
	if terminal {
		stream.newline = "\r\n"
	}
	path, err := shownBy(stdout, terminal, pid)
	if err == nil {
		stream.file, err = look(path)
	}
	stream.err = err
	return stream
}

// shownBy returns a path that leads to the stream: its own, or, for the pipe to a logger,
// the stdout that the runtime gave the init.
func shownBy(stdout string, terminal bool, pid int) (string, error) {
	target, err := url.Parse(stdout)
	switch {
	case stdout == "":
		return "", errNone
	case err != nil:
		return "", fmt.Errorf("stdout: %w", err)
	case target.Scheme == "file":
		return target.Path, nil
	case target.Scheme != "binary" && target.Scheme != "binary-v2":
		return stdout, nil
	case terminal:
		return "", errTerminal
	case pid == 0:
		return "", errUnknown
	}
	return fmt.Sprintf("/proc/%d/fd/1", pid), nil
}

// look returns the identity of a file, without opening it.
func look(path string) (identity, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return identity{}, fmt.Errorf("the container's stdout, %s: %w", path, err)
	}
	if kind := stat.Mode & unix.S_IFMT; kind != unix.S_IFIFO && kind != unix.S_IFREG {
		return identity{}, fmt.Errorf("the container's stdout, %s, is neither a FIFO nor a file", path)
	}
	return identity{stat.Dev, stat.Ino}, nil
}

// openFlags make a write fail that would wait. They hold for this descriptor only: it is
// newly opened, because a copy would share its flags with the container.
const openFlags = unix.O_WRONLY | unix.O_APPEND | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY

// open opens the stream again, through the shim's own descriptor for the container's output.
// The descriptor's number may have been reused meanwhile, so open checks what it has opened.
func (s Stream) open() (*os.File, error) {
	if s.err != nil {
		return nil, s.err
	}
	const own = "/proc/self/fd"
	entries, err := os.ReadDir(own)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		number, err := strconv.Atoi(entry.Name())
		if err != nil || !s.is(number) {
			continue
		}
		file, err := os.OpenFile(own+"/"+entry.Name(), openFlags, 0)
		if err != nil {
			continue
		}
		if s.isFile(file) {
			return file, nil
		}
		_ = file.Close()
	}
	return nil, errClosed
}

// is reports whether a descriptor writes to the stream.
func (s Stream) is(descriptor int) bool {
	var stat unix.Stat_t
	flags, err := unix.FcntlInt(uintptr(descriptor), unix.F_GETFL, 0)
	if err == nil {
		err = unix.Fstat(descriptor, &stat)
	}
	return err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY && s.file == identity{stat.Dev, stat.Ino}
}

func (s Stream) isFile(file *os.File) (same bool) {
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) { same = s.is(int(fd)) })
	return err == nil && same
}
