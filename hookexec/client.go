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

// Monitor starts a process and reports the exits of all children: the shim's reaper
// (containerd's pkg/sys/reaper.Monitor).
type Monitor interface {
	Start(*exec.Cmd) (chan runc.Exit, error)
	Unsubscribe(chan runc.Exit)
}

// Host is an opened handler host. It runs the build that was opened, even if the file is
// replaced later.
type Host struct {
	file    *os.File
	monitor Monitor
}

// OpenHost looks for the handler host in the directory of the running program, then on
// PATH. The error says what to do.
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

// Close closes the host's file.
func (h *Host) Close() error { return h.file.Close() }

// command names the opened file through the shim's own descriptor table: in the child its
// number may already mean another file. A weakness: the process that joins the container
// is a copy that libcontainer makes by the file's path (exeseal). If something was mounted
// over the file's directory since, the copy is of another file.
func (h *Host) command(name string) *exec.Cmd {
	cmd := &exec.Cmd{
		Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.file.Fd()),
		Args: []string{HostBinary, name},
		Env:  []string{"GOMAXPROCS=1"}, // handlers must not inherit the shim's environment
		Dir:  "/",
	}
	return cmd
}

// call runs the host and waits for its exit, at most for the given time. The request is
// its stdin, as JSON.
func (h *Host) call(ctx context.Context, wait time.Duration, command string, request any) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	input, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return h.run(ctx, command, bytes.NewReader(input))
}

// run runs the host and waits for its exit.
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

// start starts the host in a new process group, and in the named cgroup of the v2
// hierarchy, if any. It sets no Pdeathsig: the signal is sent when the forking thread
// exits, and containerd's mount code ends threads.
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

// wait returns the host's exit status. It kills the host when ctx is cancelled.
func (c *child) wait(ctx context.Context) (int, error) {
	done := ctx.Done()
	for {
		select {
		case exit, ok := <-c.exits:
			if !ok {
				return 0, errors.New("the shim's reaper has stopped")
			}
			if exit.Pid == c.pid && c.isReaped() {
				c.unsubscribe() // the reaper blocks on a full channel, and collect waits until stdin is closed
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

// collect is called after the reaper reported the host's exit. Wait flushes stderr. It
// finds no process, so os/exec's own pidfd stays open until Release.
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

// channel is the shim's end of the sockets that a started host inherits.
type channel struct {
	control *net.UnixConn
	pidfds  *os.File
	// peeked is the buffer of announced. An announcement is much shorter.
	peeked [256]byte
}

// pidfdFile is the index of wire.PidfdFD among the host's files.
const pidfdFile = wire.PidfdFD - wire.ControlFD

// newChannel returns the shim's end, and the host's files in the order of wire's
// descriptors.
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

// send writes the request. It may be longer than the socket's buffer, so the host must be
// reading. A write error means that the host exited; its response says why, if it sent one.
func (c *channel) send(request wire.StartRequest) {
	_ = json.NewEncoder(c.control).Encode(request)
	_ = c.control.CloseWrite()
}

// responseWait bounds how long the response of a host that exited is read: a process that
// it left behind may hold the socket open.
const responseWait = time.Second

// announced returns the handler's pid, or 0 if the host has not sent it yet. It leaves the
// message in the socket.
func (c *channel) announced() int {
	raw, err := c.control.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) { // it fails only if the socket is closed
		n, _, _ = unix.Recvfrom(int(fd), c.peeked[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	if n <= 0 {
		return 0
	}
	var response wire.StartResponse
	_ = json.NewDecoder(bytes.NewReader(c.peeked[:n])).Decode(&response) // a message that does not fit is an error report, without a pid
	return response.Pid
}

// response reads the answer of a host that exited: the handler's pid, or the error.
func (c *channel) response() (int, error) {
	response := wire.StartResponse{Announced: true}
	_ = c.control.SetReadDeadline(time.Now().Add(responseWait))
	for decoder := json.NewDecoder(c.control); response.Announced; {
		response = wire.StartResponse{}
		if err := decoder.Decode(&response); err != nil {
			return 0, errors.New("cannot start: the handler host exited without an answer")
		}
	}
	if response.Error != "" {
		return 0, fmt.Errorf("cannot start: %s", response.Error)
	}
	return response.Pid, nil
}

// handler receives the pidfd that the handler's process sent of itself. It does not wait:
// the host has exited, and without it a process that has not sent its pidfd yet cannot
// continue.
func (c *channel) handler(pid int) (*process, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(c.pidfds.Fd()), make([]byte, 64), oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("receive the handler's pidfd: %w", err)
	}
	fds := descriptorsIn(oob[:n])
	if len(fds) != 1 {
		err = errors.New("the handler host sent no pidfd of the handler's process")
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

// descriptorsIn returns the descriptors that came with a message. All of them are open.
func descriptorsIn(oob []byte) []int {
	var all []int
	messages, _ := unix.ParseSocketControlMessage(oob) // a malformed message has none
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		all = append(all, fds...)
	}
	return all
}
