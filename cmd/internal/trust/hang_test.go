package trust

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Opcodes of fuse(4) that the silent file system answers.
const (
	fuseGetattr = 3
	fuseInit    = 26
)

// silentFS is a FUSE file system of one directory. A test can make it stop answering.
type silentFS struct {
	fd     int
	silent atomic.Bool
}

func mountSilentFS(t *testing.T) (*silentFS, string) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no FUSE here: ", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	dir := t.TempDir()
	if err := unix.Mount("silent", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40755,user_id=0,group_id=0", fd)); err != nil {
		t.Skip("no FUSE may be mounted here: ", err)
	}
	fs := &silentFS{fd: fd}
	done := make(chan struct{})
	go func() { fs.serve(); close(done) }()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		<-done
	})
	return fs, dir
}

// serve returns when the file system is unmounted.
func (fs *silentFS) serve() {
	request := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fs.fd, request)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT):
			continue
		case err != nil || n < 40:
			return
		case fs.silent.Load():
			continue
		}
		var body []byte
		errno := int32(0)
		switch binary.NativeEndian.Uint32(request[4:]) {
		case fuseInit: // struct fuse_init_out
			body = make([]byte, 64)
			binary.NativeEndian.PutUint32(body, 7)
			binary.NativeEndian.PutUint32(body[4:], 31)
			binary.NativeEndian.PutUint32(body[20:], 4096)
		case fuseGetattr: // struct fuse_attr_out, which is valid for no time
			body = make([]byte, 16+88)
			binary.NativeEndian.PutUint64(body[16:], 1)
			binary.NativeEndian.PutUint32(body[16+60:], unix.S_IFDIR|0o755)
			binary.NativeEndian.PutUint32(body[16+64:], 2)
		default:
			errno = -int32(unix.ENOSYS)
		}
		answer := make([]byte, 16, 16+len(body))
		binary.NativeEndian.PutUint32(answer, uint32(16+len(body)))
		binary.NativeEndian.PutUint32(answer[4:], uint32(errno))
		copy(answer[8:], request[8:16])
		_, _ = unix.Write(fs.fd, append(answer, body...)) // a request may have been interrupted
	}
}

// TestInContainer is not a test by itself: it is the process of TestNoWaitForAContainersFiles.
func TestInContainer(t *testing.T) {
	root := os.Getenv("TRUST_TEST_ROOT")
	if root == "" {
		t.Skip("run by TestNoWaitForAContainersFiles")
	}
	if err := unix.Chroot(root); err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the other test ends
}

// TestNoWaitForAContainersFiles: a container's root directory, or its program, may be in
// a file system that the container's owner serves, such as NFS or FUSE, and that stops
// answering. A look at that process must not wait for it.
func TestNoWaitForAContainersFiles(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	fs, dir := mountSilentFS(t)
	command := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestInContainer$")
	command.Env = append(os.Environ(), "TRUST_TEST_ROOT="+dir)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		fs.silent.Store(false)
		_ = command.Process.Kill()
		_ = stdin.Close()
		_ = command.Wait() // killed
	}()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "ready\n" {
		t.Fatalf("it says %q, %v", line, err)
	}
	fs.silent.Store(true)
	answer := make(chan error, 1)
	go func() { _, err := Open(command.Process.Pid); answer <- err }()
	select {
	case err := <-answer:
		if err == nil {
			t.Error("a container's process is believed")
		}
	case <-time.After(10 * time.Second): // of the kernel's, which waits for ever
		t.Errorf("a look at process %s waits for a file system that does not answer", strconv.Itoa(command.Process.Pid))
	}
}
