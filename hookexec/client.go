package hookexec

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec/wire"
)

// HostBinary is the handler host's file name.
const HostBinary = "lifecycle-hookexec"

// Monitor starts a process and tells the exits of all children, as the shim's
// reaper does (containerd's pkg/sys/reaper.Monitor).
type Monitor interface {
	Start(*exec.Cmd) (chan runc.Exit, error)
	Unsubscribe(chan runc.Exit)
}

// Host is an opened handler host. It stays of the build that was opened,
// whatever becomes of its file.
type Host struct {
	file    *os.File
	monitor Monitor
}

// OpenHost looks for the handler host beside the running program, then on PATH.
// The error says what to do.
func OpenHost(monitor Monitor) (*Host, error) {
	path, err := findHost()
	if err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the handler host: %w", err)
	}
	return &Host{file: file, monitor: monitor}, nil
}

func findHost() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	beside := filepath.Join(filepath.Dir(self), HostBinary)
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	path, err := exec.LookPath(HostBinary)
	if err != nil {
		return "", fmt.Errorf("exec handlers need %s, which is neither beside %s nor on the PATH of containerd: install it there",
			HostBinary, self)
	}
	return path, nil
}

// Close lets the host's file go.
func (h *Host) Close() error { return h.file.Close() }

// command names the opened file through the shim's own descriptor table: in the
// child its number may already mean something else. A weakness: what joins the container
// is a copy that libcontainer makes by the file's path (exeseal), which is another file
// where something was mounted over its directory since.
func (h *Host) command(name string) *exec.Cmd {
	cmd := &exec.Cmd{
		Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.file.Fd()),
		Args: []string{HostBinary, name},
		Env:  []string{"GOMAXPROCS=1"}, // nothing of the shim's environment reaches a handler
		Dir:  "/",
	}
	return cmd
}

// call runs the host to its end, at most for wait. request is its stdin, as JSON.
func (h *Host) call(ctx context.Context, wait time.Duration, command string, request any) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	input, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return h.run(ctx, command, bytes.NewReader(input))
}

// run runs the host to its end.
func (h *Host) run(ctx context.Context, command string, stdin io.Reader) error {
	var stderr bytes.Buffer
	cmd := h.command(command)
	cmd.Stdin, cmd.Stderr = stdin, &stderr
	child, err := h.start(cmd, "")
	if err != nil {
		return err
	}
	defer child.release()
	status, err := child.wait(ctx)
	if err != nil {
		return fmt.Errorf("%s %s: %w", HostBinary, command, err)
	}
	if status != 0 {
		return fmt.Errorf("%s %s: exit status %d: %s", HostBinary, command, status, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// child is a running handler host.
type child struct {
	*process
	cmd     *exec.Cmd
	exits   chan runc.Exit
	monitor Monitor
}

// start runs the host in a process group of its own, and in a cgroup of the v2
// hierarchy where one is named. It has no Pdeathsig, which is the forking thread's:
// containerd's mount code ends threads.
func (h *Host) start(cmd *exec.Cmd, cgroup string) (*child, error) {
	pidfd := -1
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, PidFD: &pidfd}
	if fd := openCgroup(cgroup); fd >= 0 {
		defer unix.Close(fd)
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
	}
	exits, err := h.monitor.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", HostBinary, err)
	}
	return &child{process: &process{pid: cmd.Process.Pid, pidfd: pidfd}, cmd: cmd, exits: exits, monitor: h.monitor}, nil
}

// wait for the host's exit; it is killed when ctx ends.
func (c *child) wait(ctx context.Context) (int, error) {
	done := ctx.Done()
	for {
		select {
		case exit, ok := <-c.exits:
			if !ok {
				return 0, errors.New("the shim's reaper is gone")
			}
			if exit.Pid == c.pid && c.isReaped() {
				c.unsubscribe() // the reaper waits for who does not take its exits, and os/exec for the end of stdin
				c.collect()
				return exit.Status, context.Cause(ctx)
			}
		case <-done:
			if err := c.killGroup(); err != nil {
				return 0, err
			}
			done = nil
		}
	}
}

// collect is called when the reaper has reported the host's exit. Wait flushes stderr;
// it finds no process, and so leaves os/exec's own pidfd open.
func (c *child) collect() {
	_ = c.cmd.Wait()
	_ = c.cmd.Process.Release()
}

func (c *child) release() {
	c.unsubscribe()
	c.close()
}

func (c *child) unsubscribe() {
	if c.exits != nil {
		c.monitor.Unsubscribe(c.exits)
		c.exits = nil
	}
}

// channel is the parent's side of what a started host inherits.
type channel struct {
	control *net.UnixConn
	pidfds  *os.File
	// peeked is announced's buffer: an announcement is far shorter.
	peeked [256]byte
}

// pidfdFile is the index of wire.PidfdFD among the host's files.
const pidfdFile = wire.PidfdFD - wire.ControlFD

// newChannel returns the parent's side and the files for the host, in the order
// of wire's descriptors.
func newChannel() (*channel, []*os.File, error) {
	control, controlChild, err := socketpair("control")
	if err != nil {
		return nil, nil, err
	}
	defer control.Close() // FileConn works on a copy
	pidfds, pidfdsChild, err := socketpair("pidfd")
	if err != nil {
		controlChild.Close()
		return nil, nil, err
	}
	conn, err := net.FileConn(control)
	if err != nil {
		closeAll(controlChild, pidfds, pidfdsChild)
		return nil, nil, err
	}
	return &channel{control: conn.(*net.UnixConn), pidfds: pidfds}, []*os.File{controlChild, pidfdsChild}, nil
}

func socketpair(name string) (parent, inherited *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair %s: %w", name, err)
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name+"-host"), nil
}

func closeAll(files ...*os.File) {
	for _, file := range files {
		_ = file.Close()
	}
}

func (c *channel) close() {
	_ = c.control.Close()
	_ = c.pidfds.Close()
}

// send writes the request. It is longer than a socket's buffer at times, so the
// host must be reading.
// It fails only if the host has ended, whose answer says why, or has none.
func (c *channel) send(request wire.StartRequest) {
	_ = json.NewEncoder(c.control).Encode(request)
	_ = c.control.CloseWrite()
}

// responseWait bounds the reading of what a host that has left has said.
const responseWait = time.Second

// announced returns the handler's pid if the host has sent it, else 0. It takes nothing
// from the socket.
func (c *channel) announced() int {
	raw, err := c.control.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) { // its only error is that of a closed socket
		n, _, _ = unix.Recvfrom(int(fd), c.peeked[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	if n <= 0 {
		return 0
	}
	var response wire.StartResponse
	_ = json.NewDecoder(bytes.NewReader(c.peeked[:n])).Decode(&response) // an error that is longer announces no pid
	return response.Pid
}

// response is what the host has said before it went: the handler's pid, or why
// there is none.
func (c *channel) response() (int, error) {
	response := wire.StartResponse{Announced: true}
	_ = c.control.SetReadDeadline(time.Now().Add(responseWait))
	for decoder := json.NewDecoder(c.control); response.Announced; {
		response = wire.StartResponse{}
		if err := decoder.Decode(&response); err != nil {
			return 0, errors.New("cannot start: the handler host ended without an answer")
		}
	}
	if response.Error != "" {
		return 0, fmt.Errorf("cannot start: %s", response.Error)
	}
	return response.Pid, nil
}

// handler takes the pidfd that the handler's process has sent, if it came that
// far. The host has exited, so nothing has to be waited for: a process that has
// not sent it yet cannot go on without its host.
func (c *channel) handler(pid int) (*process, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(c.pidfds.Fd()), make([]byte, 64), oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("receive the handler's pidfd: %w", err)
	}
	fds := descriptorsIn(oob[:n])
	if len(fds) != 1 {
		err = errors.New("the handler's process did not come to life")
	} else if handler, unknown := newProcess(fds[0], pid); unknown != nil {
		err = fmt.Errorf("the handler's process: %w", unknown)
	} else {
		return handler, nil
	}
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
	return nil, err
}

// descriptorsIn returns what was received with a message: all of it is open.
func descriptorsIn(oob []byte) []int {
	var all []int
	messages, _ := unix.ParseSocketControlMessage(oob) // what cannot be read holds none
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		all = append(all, fds...)
	}
	return all
}
