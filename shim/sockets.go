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

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
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

// leaveSockets keeps pkg/shim from removing sockets by their paths when this shim has ended
// (cleanupSockets): those in its flags, and the one that the bundle's address file names.
// This shim's sockets are gone by then. While the last events went out, another shim may
// have made a socket at the same path, and without it nobody can reach that shim.
func leaveSockets() {
	for _, name := range []string{"socket", "debug-socket"} {
		_ = flag.Set(name, os.DevNull+"/none") // pkg/shim's flags, which it has read before it served
	}
	_ = os.Remove(addressFile) // the bundle may have been removed
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
	// connectWait bounds isServed, and each other wait for a shim that the start action
	// looks for. The kernel accepts for a process that gets no processor, so only a full
	// backlog takes time.
	connectWait = 5 * time.Second
	// connectPause is between two tries.
	connectPause = 20 * time.Millisecond
)

// connectShim connects to a shim's address. It returns nil if no process listens there. It is
// an error not to know: who takes a living shim for dead removes its socket.
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

// willServe reports whether the shim at the address will be there when the container of
// that id is created. It announces the Create to the shim, which accepts or has begun to
// end. One that ends removes its socket before it says so, so the wait for that is short.
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
// for shims that stay, as one that can be connected to was before there was this call.
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
