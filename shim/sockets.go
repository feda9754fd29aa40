package shim

import (
	"os"
	"strings"

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
