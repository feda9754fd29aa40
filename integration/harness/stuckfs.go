package harness

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// StuckFS is a filesystem in which every look at a name hangs until Close. The process that looks is in an
// uninterruptible sleep: once a FUSE daemon has read a request, not even SIGKILL ends the wait for its
// answer (request_wait_answer, fs/fuse/dev.c).
type StuckFS struct {
	dir    string
	device *os.File
	// Stuck gets a value for each process that hangs.
	Stuck chan struct{}
	once  sync.Once
	ended chan struct{} // closed by serve when it has ended
}

// MountStuckFS mounts one in dir. The daemons with HideUnified do not see it.
func MountStuckFS(dir string) (*StuckFS, error) {
	// O_NONBLOCK lets Close interrupt serve.
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40755,user_id=0,group_id=0,allow_other", fd)
	if err := unix.Mount("stuck", dir, "fuse.stuck", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("mount a filesystem in user space: %w", err)
	}
	s := &StuckFS{dir: dir, device: os.NewFile(uintptr(fd), "fuse"), Stuck: make(chan struct{}, 64), ended: make(chan struct{})}
	go s.serve()
	return s, nil
}

// Close lets everybody go who hangs, with an error, and unmounts.
func (s *StuckFS) Close() error {
	var err error
	s.once.Do(func() {
		// The detached mount keeps the request's process in its sleep; the closed device does not.
		err = errors.Join(unix.Unmount(s.dir, unix.MNT_DETACH), s.device.Close())
		<-s.ended
	})
	return err
}

// What is spoken of the protocol, from linux/fuse.h.
const (
	fuseLookup  = 1
	fuseForget  = 2
	fuseGetattr = 3
	fuseInit    = 26
	fuseInHead  = 40
	fuseOutHead = 16
)

func (s *StuckFS) serve() {
	defer close(s.ended)
	request := make([]byte, 1<<17)
	for {
		n, err := s.device.Read(request)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
			continue // a request that was taken back
		}
		if err != nil || n < fuseInHead {
			return
		}
		unique := binary.NativeEndian.Uint64(request[8:])
		switch binary.NativeEndian.Uint32(request[4:]) {
		case fuseInit:
			s.answer(unique, 0, initReply())
		case fuseGetattr:
			s.answer(unique, 0, attrReply())
		case fuseLookup:
			s.Stuck <- struct{}{}
		case fuseForget:
		default:
			s.answer(unique, -int32(unix.ENOSYS), nil)
		}
	}
}

func (s *StuckFS) answer(unique uint64, status int32, body []byte) {
	reply := binary.NativeEndian.AppendUint32(nil, uint32(fuseOutHead+len(body)))
	reply = binary.NativeEndian.AppendUint32(reply, uint32(status))
	reply = binary.NativeEndian.AppendUint64(reply, unique)
	_, _ = s.device.Write(append(reply, body...)) // no reader waits any more: what we want
}

// initReply is a struct fuse_init_out: version 7.31, no features.
func initReply() []byte {
	body := make([]byte, 64)
	binary.NativeEndian.PutUint32(body, 7)
	binary.NativeEndian.PutUint32(body[4:], 31)
	binary.NativeEndian.PutUint32(body[20:], 4096) // max_write
	return body
}

// attrReply is a struct fuse_attr_out: a directory for everybody.
func attrReply() []byte {
	body := make([]byte, 16+88)
	binary.NativeEndian.PutUint64(body[16:], 1)                     // ino
	binary.NativeEndian.PutUint32(body[16+60:], unix.S_IFDIR|0o755) // mode
	binary.NativeEndian.PutUint32(body[16+64:], 2)                  // nlink
	return body
}
