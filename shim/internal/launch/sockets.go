package launch

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

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// listenerFDs are the descriptors on which a shim inherits its sockets: the
// task API's, and with -debug the profiler's (containerd's pkg/shim,
// serveListener).
var listenerFDs = []int{3, 4}

// Sockets are those that a shim serves, the task API's first.
type Sockets []Socket

// Socket is a socket by its path, and the file that was there when the shim began.
type Socket struct {
	path string
	was  fs.FileInfo
}

// OwnSockets returns those that the shim is going to serve. It is called before the shim
// serves: the numbers may mean other files later. From then on no child inherits them. If
// the runtime or the handler host did, the kernel would accept connections to a dead
// shim's socket while such a child lives, instead of refusing them.
func OwnSockets() Sockets {
	var sockets Sockets
	for _, fd := range listenerFDs {
		address, _ := unix.Getsockname(fd) // nil if it was not inherited; pkg/shim removes the one of its flag -socket
		socket, ok := address.(*unix.SockaddrUnix)
		if !ok || !strings.HasPrefix(socket.Name, "/") {
			continue
		}
		unix.CloseOnExec(fd)
		if own, err := At(socket.Name); err == nil {
			sockets = append(sockets, own)
		}
	}
	return sockets
}

// At returns the socket that is at a path now.
func At(path string) (Socket, error) {
	was, err := os.Lstat(path)
	return Socket{path: path, was: was}, err
}

// LeaveSockets keeps pkg/shim from removing sockets by their paths when this shim has ended
// (cleanupSockets): those in its flags, and the one that the bundle's address file names.
// This shim's sockets are gone by then. While the last events went out, another shim may
// have made a socket at the same path; without it that shim could not be reached.
func LeaveSockets() {
	for _, name := range []string{"socket", "debug-socket"} {
		_ = flag.Set(name, os.DevNull+"/none") // pkg/shim's flags, which it has read before it served
	}
	_ = os.Remove(addressFile) // the bundle may have been removed
}

// Remove removes the sockets when the shim ends. Usually only the debug socket is left. A
// file that has been put at a path since then belongs to another shim, and stays.
func (s Sockets) Remove() {
	for _, socket := range s {
		if now, err := os.Lstat(socket.path); err == nil && os.SameFile(now, socket.was) && now.ModTime().Equal(socket.was.ModTime()) {
			_ = os.Remove(socket.path)
		}
	}
}

const (
	// connectWait bounds isServed, and each other wait of the start action for a shim. The
	// kernel accepts connections for a process that gets no processor, so only a full
	// backlog takes time.
	connectWait = 5 * time.Second
	// connectPause is between two tries.
	connectPause = 20 * time.Millisecond
)

// connectShim connects to a shim's address. It returns nil if no process listens there. If
// that is unknown it is an error: a living shim that is taken for dead loses its socket.
func connectShim(ctx context.Context, address string) (net.Conn, error) {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", strings.TrimPrefix(address, "unix://"))
		switch {
		case err == nil:
			return conn, nil
		case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
			return nil, nil //nolint:nilnil // this is the answer
		case !errors.Is(err, unix.EAGAIN): // the backlog is full
			return nil, fmt.Errorf("connect to its socket: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("its socket accepts nothing: %w", err)
		case <-time.After(connectPause):
		}
	}
}

// isServed reports whether a process listens at a shim's address.
func isServed(address string, wait time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	conn, err := connectShim(ctx, address)
	if conn == nil {
		return false, err
	}
	return true, conn.Close()
}

// willServe reports whether the shim at the address will still be there when the container
// with that id is created. It announces the Create to the shim, which accepts unless it has
// begun to end. A shim that ends removes its socket before it refuses, so the wait for that
// is short.
func willServe(ctx context.Context, address, id string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*connectWait)
	defer cancel()
	for {
		conn, err := connectShim(ctx, address)
		if conn == nil {
			return false, err
		}
		if announce(ctx, conn, id) {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, errors.New("it is ending, and its socket stays")
		case <-time.After(connectPause):
		}
	}
}

// announce returns false if the shim is ending or has ended. A shim of an earlier build
// does not know the call, and one that gets no processor does not answer: both are taken
// for shims that stay, as before this call existed.
func announce(ctx context.Context, conn net.Conn, id string) bool {
	client := ttrpc.NewClient(conn)
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	response, err := lifecyclev1.NewLaunchClient(client).Expect(ctx, &lifecyclev1.ExpectRequest{Id: id})
	if err != nil {
		return !errors.Is(err, ttrpc.ErrClosed)
	}
	return response.Accepted
}
