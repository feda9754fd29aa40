package shim

import (
	"context"
	"errors"
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

// ownSockets are the paths of the sockets that the shim is going to serve. They
// are to be asked for before it serves: the numbers may mean other files later.
func ownSockets() []string {
	var paths []string
	for _, fd := range listenerFDs {
		address, err := unix.Getsockname(fd)
		if err != nil {
			continue // not inherited; pkg/shim removes what it was told with -socket
		}
		if socket, ok := address.(*unix.SockaddrUnix); ok && strings.HasPrefix(socket.Name, "/") {
			paths = append(paths, socket.Name)
		}
	}
	return paths
}

// removeSockets is for the end of a shim. pkg/shim finds the sockets through the
// bundle of the pod's first container, which may be gone long before.
func removeSockets(paths []string) {
	for _, path := range paths {
		_ = os.Remove(path) // most often pkg/shim has removed it
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
