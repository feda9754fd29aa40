package stdout

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Why a container's stdout cannot be reached.
var (
	errNone     = errors.New("the container has no stdout")
	errTerminal = errors.New("the container has a terminal, whose logger has a pipe that nobody else can find")
	errUnknown  = errors.New("which pipe leads to the logger is not known of a restored container")
	errNoPipe   = errors.New("the shim has no pipe to the logger")
	errReader   = errors.New("nobody reads the container's stdout")
)

// Stream is where a container's stdout goes. It holds no descriptor.
type Stream struct {
	// path of a FIFO or a file; empty: the pipe to a logger.
	path string
	pipe identity
	// newline ends a line. A terminal's stream has them as its terminal's driver
	// writes them: the client's terminal is in raw mode.
	newline string
	// err says why there is no stream, nil where there is one.
	err error
}

// identity of a pipe, for as long as somebody holds it open.
type identity struct{ device, inode uint64 }

// Of a container that has just been created, with the stdout of its request. pid
// is its init's, which must not run code of the container's yet; 0 where there is
// no such moment.
func Of(stdout string, terminal bool, pid int) Stream {
	stream := Stream{path: stdout, newline: "\n"}
	if terminal {
		stream.newline = "\r\n"
	}
	target, err := url.Parse(stdout)
	switch {
	case stdout == "":
		stream.err = errNone
	case err != nil:
		stream.err = fmt.Errorf("stdout: %w", err)
	case target.Scheme == "file":
		stream.path = target.Path
	case target.Scheme == "binary" || target.Scheme == "binary-v2":
		stream.path = ""
		stream.pipe, stream.err = loggerPipe(terminal, pid)
	}
	return stream
}

// loggerPipe is what the runtime gave to the init as its stdout. It is looked at,
// never opened.
func loggerPipe(terminal bool, pid int) (identity, error) {
	switch {
	case terminal:
		return identity{}, errTerminal
	case pid == 0:
		return identity{}, errUnknown
	}
	var stat unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/fd/1", pid), &stat); err != nil {
		return identity{}, fmt.Errorf("the container's stdout: %w", err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFIFO {
		return identity{}, errNoPipe
	}
	return identity{stat.Dev, stat.Ino}, nil
}

// openFlags: a write that would wait fails instead, on this descriptor only. It is
// an opened one, never a copy, whose flags the container would share.
const openFlags = unix.O_WRONLY | unix.O_APPEND | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY

// open returns a descriptor of the stream that the caller closes.
func (s Stream) open() (*os.File, error) {
	if s.err != nil {
		return nil, s.err
	}
	if s.path == "" {
		return s.openPipe()
	}
	file, err := os.OpenFile(s.path, openFlags, 0)
	switch {
	case errors.Is(err, unix.ENXIO):
		return nil, errReader
	case err != nil:
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() && info.Mode()&os.ModeNamedPipe == 0 {
		err = fmt.Errorf("%s is neither a FIFO nor a file", s.path)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// openPipe opens the pipe to the logger through the shim's own descriptors. What
// their numbers mean may change meanwhile, so the result is looked at again.
func (s Stream) openPipe() (*os.File, error) {
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
	return nil, errNoPipe
}

// is tells whether a descriptor is the pipe's end for writing.
func (s Stream) is(descriptor int) bool {
	var stat unix.Stat_t
	flags, err := unix.FcntlInt(uintptr(descriptor), unix.F_GETFL, 0)
	if err == nil {
		err = unix.Fstat(descriptor, &stat)
	}
	return err == nil && flags&unix.O_ACCMODE == unix.O_WRONLY && stat.Mode&unix.S_IFMT == unix.S_IFIFO && s.pipe == identity{stat.Dev, stat.Ino}
}

func (s Stream) isFile(file *os.File) (same bool) {
	raw, err := file.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Control(func(fd uintptr) { same = s.is(int(fd)) })
	return err == nil && same
}
