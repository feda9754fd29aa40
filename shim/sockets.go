package shim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// listenerFDs are the descriptors on which a shim inherits its sockets: the
// task API's, and with -debug the profiler's (containerd's pkg/shim,
// serveListener).
var listenerFDs = []int{3, 4}

// socketFile is a socket by its path, and what was there when the shim began.
type socketFile struct {
	path string
	was  fs.FileInfo
}

// ownSockets are those that the shim is going to serve. They are to be asked for
// before it serves: the numbers may mean other files later. From then on they are the
// shim's alone. What it starts, the runtime and the handler host, would inherit them:
// the kernel would let whoever connects to a dead shim's socket wait for as long as one
// of those lives, where he is to be refused.
func ownSockets() []socketFile {
	var sockets []socketFile
	for _, fd := range listenerFDs {
		address, err := unix.Getsockname(fd)
		if err != nil {
			continue // not inherited; pkg/shim removes what it was told with -socket
		}
		socket, ok := address.(*unix.SockaddrUnix)
		if !ok || !strings.HasPrefix(socket.Name, "/") {
			continue
		}
		unix.CloseOnExec(fd)
		if was, err := os.Lstat(socket.Name); err == nil {
			sockets = append(sockets, socketFile{path: socket.Name, was: was})
		}
	}
	return sockets
}

// leaveSockets keeps pkg/shim from removing what is at the paths of this shim's sockets,
// which it works out again at the end. The runc service has removed the task API's when
// the end began, and while the last events went out, a shim of the same name may have
// put its own there: without it, a containerd that starts takes that one for dead.
func leaveSockets() {
	for _, name := range []string{"socket", "debug-socket"} {
		_ = flag.Set(name, os.DevNull+"/none") // pkg/shim's flags, which it has read before it served
	}
}

// removeSockets is for the end of a shim: they are gone as a rule, but the debug
// socket. What has come there since is another shim's.
func removeSockets(sockets []socketFile) {
	for _, socket := range sockets {
		if now, err := os.Lstat(socket.path); err == nil && os.SameFile(now, socket.was) && now.ModTime().Equal(socket.was.ModTime()) {
			_ = os.Remove(socket.path)
		}
	}
}

const (
	// connectWait bounds isServed. The kernel accepts for a process that gets no
	// processor, so only a full backlog takes time.
	connectWait = 5 * time.Second
	// connectPause is between two tries.
	connectPause = 20 * time.Millisecond
)

// isServed tells whether a process listens at a shim's address. It is an error
// not to know: who takes a shim for dead that lives removes its socket.
func isServed(address string, wait time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(address, "unix://"))
		switch {
		case err == nil:
			return true, conn.Close()
		case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
			return false, nil
		case !errors.Is(err, unix.EAGAIN): // the backlog is full
			return false, fmt.Errorf("connect to its socket: %w", err)
		}
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("its socket accepts nothing: %w", err)
		case <-time.After(connectPause):
		}
	}
}
