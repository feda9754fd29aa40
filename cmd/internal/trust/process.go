package trust

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a process that Open has checked.
type Process struct {
	PID int
	// Executable is the path of its program. The file may have been replaced since.
	Executable string
	// Args are its arguments. The first one is chosen by the process that started it.
	Args []string
	// Dir is its working directory.
	Dir string
	env []string
	// inodes of the sockets that it holds.
	inodes map[uint32]bool
	// OtherNetwork is set if it has another network namespace, whose sockets ReadSockets
	// does not list.
	OtherNetwork bool
}

// maxText bounds an argument list or an environment, in bytes. Linux allows more (6 MiB,
// execve(2)), but no daemon needs it.
const maxText = 1 << 20

var errExecutes = errors.New("it is executing another program, or has no arguments")

// Open returns a process if it is trusted: see the package's comment. The error gives the
// condition that it does not meet.
func Open(pid int) (*Process, error) { return open(pid, false) }

// open does the work of Open. With anyProgram it does not check the program's file.
func open(pid int, anyProgram bool) (*Process, error) {
	// The descriptor is bound to the process: a later process with the same pid is not read.
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	dir := "/proc/self/fd/" + strconv.Itoa(fd)
	p := &Process{PID: pid}
	before, err := check(dir, anyProgram)
	if err == nil {
		err = p.read(dir)
	}
	if err == nil {
		p.Executable, err = check(dir, anyProgram)
	}
	if err == nil && p.Executable != before {
		err = errExecutes
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return p, nil
}

// check returns the executable of a process that is trusted.
func check(dir string, anyProgram bool) (string, error) {
	var found identity
	if err := found.lookAtUser(dir); err != nil {
		return "", err
	}
	// Its files come second: those of a container may be on a server that never answers.
	if err := found.judgeUser(); err != nil {
		return "", err
	}
	if err := found.lookAtFiles(dir); err != nil {
		return "", err
	}
	if err := found.judgeFiles(); err != nil {
		return "", err
	}
	if anyProgram {
		return found.executable, nil
	}
	return found.executable, found.judgeProgram()
}

// identity is what the kernel reports about a process.
type identity struct {
	// uids are the real, effective, saved and file system user ids.
	uids                            []string
	sameUsers, sameMounts, sameRoot bool
	executable                      string
	mode                            uint32 // of the executable, as in stat(2)
	owner                           uint32 // of the executable
}

// lookAtUser reads only what the kernel knows without asking a file system.
func (i *identity) lookAtUser(dir string) error {
	status, err := readBounded(dir + "/status")
	if err != nil {
		return err
	}
	i.uids = uidsOf(status)
	if i.sameUsers, err = sameLink(dir, "ns/user"); err != nil {
		return err
	}
	i.sameMounts, err = sameLink(dir, "ns/mnt")
	return err
}

// lookAtFiles asks the file systems of the root directory and the program. It blocks until
// they answer.
func (i *identity) lookAtFiles(dir string) error {
	var root, own, exe unix.Stat_t
	if err := errors.Join(unix.Stat(dir+"/root", &root), unix.Stat("/", &own), unix.Stat(dir+"/exe", &exe)); err != nil {
		return err
	}
	i.sameRoot = root.Dev == own.Dev && root.Ino == own.Ino
	i.mode, i.owner = exe.Mode, exe.Uid
	path, err := os.Readlink(dir + "/exe")
	i.executable = strings.TrimSuffix(path, " (deleted)") // after an upgrade
	return err
}

// uidsOf returns the four user ids in proc_pid_status(5). The process's name is in that file
// too, but cannot imitate a line, because its newlines are escaped.
func uidsOf(status []byte) []string {
	for line := range bytes.Lines(status) {
		if ids, ok := strings.CutPrefix(string(line), "Uid:"); ok {
			return strings.Fields(ids)
		}
	}
	return nil
}

// sameLink reports whether a namespace of the process is ours.
func sameLink(dir, name string) (bool, error) {
	its, err := os.Readlink(filepath.Join(dir, name))
	if err != nil {
		return false, err
	}
	own, err := os.Readlink(filepath.Join("/proc/self", name))
	return its == own, err
}

var errElsewhere = errors.New("it runs in another mount namespace or root directory: run lifecyclectl there (nsenter --mount --root --target PID lifecyclectl …)")

func (i *identity) judgeUser() error {
	switch {
	case !slices.Equal(i.uids, []string{"0", "0", "0", "0"}):
		return fmt.Errorf("it does not run as root: its real, effective, saved and file system uids are %s", strings.Join(i.uids, ", "))
	case !i.sameUsers:
		return errors.New("it runs in another user namespace")
	case !i.sameMounts:
		return errElsewhere
	}
	return nil
}

func (i *identity) judgeFiles() error {
	switch {
	case !i.sameRoot:
		return errElsewhere
	case !filepath.IsAbs(i.executable):
		return fmt.Errorf("its program %q has no path", i.executable)
	}
	return nil
}

func (i *identity) judgeProgram() error {
	err := judgeFile(i.mode, i.owner)
	if err == nil {
		err = onlyRoot(filepath.Dir(i.executable))
	}
	if err != nil {
		return fmt.Errorf("its program %q is not trusted: %w", i.executable, err)
	}
	return nil
}

func (p *Process) read(dir string) error {
	args, argsErr := readBounded(dir + "/cmdline")
	env, envErr := readBounded(dir + "/environ")
	descriptors, err := os.ReadDir(dir + "/fd")
	if err := errors.Join(argsErr, envErr, err); err != nil {
		return err
	}
	if p.Dir, err = os.Readlink(dir + "/cwd"); err != nil {
		return err
	}
	sameNetwork, err := sameLink(dir, "ns/net")
	if err != nil {
		return err
	}
	p.OtherNetwork = !sameNetwork
	p.Args, p.env = words(args), words(env)
	if len(p.Args) == 0 {
		return errExecutes // during execve(2) the list is empty
	}
	p.inodes = map[uint32]bool{}
	for _, descriptor := range descriptors {
		link, err := os.Readlink(filepath.Join(dir, "fd", descriptor.Name()))
		text, ok := strings.CutPrefix(link, "socket:[")
		if err != nil || !ok {
			continue // closed since, or another kind of file
		}
		if inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 32); err == nil {
			p.inodes[uint32(inode)] = true
		}
	}
	return nil
}

// words splits a list of strings that each end with a NUL.
func words(data []byte) []string {
	if len(data) == 0 {
		return nil
	}
	return strings.Split(string(bytes.TrimSuffix(data, []byte{0})), "\x00")
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxText))
}

// Getenv returns a variable of the environment that the process was started with.
func (p *Process) Getenv(name string) string {
	for _, variable := range p.env {
		if value, ok := strings.CutPrefix(variable, name+"="); ok {
			return value
		}
	}
	return ""
}

// Flag returns the value of the first of these flags among the process's arguments. A flag
// begins with one dash or two, and its value follows after a space or an equals sign. The
// value is empty if none of the flags is given.
func (p *Process) Flag(names ...string) string {
	for i, arg := range p.Args {
		name, value, joined := strings.Cut(arg, "=")
		if !strings.HasPrefix(name, "-") || !slices.Contains(names, strings.TrimLeft(name, "-")) {
			continue
		}
		if joined {
			return value
		}
		if i+1 < len(p.Args) {
			return p.Args[i+1]
		}
	}
	return ""
}

// Find returns the trusted processes whose program's file has a name that named accepts. The
// name that a process gives itself does not count. Processes that exit during the search, or
// are not trusted, are left out.
func Find(named func(string) bool) ([]*Process, error) { return find(named, false) }

// FindRoots also returns processes whose program others than root could have changed. An
// installer has to report them, because they run in spite of it.
func FindRoots(named func(string) bool) ([]*Process, error) { return find(named, true) }

func find(named func(string) bool, anyProgram bool) ([]*Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []*Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// A cheap check first: a node has thousands of processes.
		link, err := os.Readlink(filepath.Join("/proc", entry.Name(), "exe"))
		if err != nil || !named(base(link)) {
			continue
		}
		if p, err := openSettled(pid, anyProgram); err == nil && named(base(p.Executable)) {
			found = append(found, p)
		}
	}
	return found, nil
}

// openSettled retries for at most 100 ms while the process is in the middle of execve(2). It
// retries only for processes that meet all other conditions.
func openSettled(pid int, anyProgram bool) (p *Process, err error) {
	for range 10 {
		if p, err = open(pid, anyProgram); !errors.Is(err, errExecutes) {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	return p, err
}

func base(executable string) string {
	return filepath.Base(strings.TrimSuffix(executable, " (deleted)"))
}
