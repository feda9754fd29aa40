package harness

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// sharedSocketDir is where the shims of every daemon listen, unless containerd 2.3 or newer gives them
// another place.
const sharedSocketDir = "/run/containerd/s"

// socketNames remembers which sockets in sharedSocketDir are a daemon's: a name there is a hash, and cannot
// be read back. It is safe for concurrent use.
type socketNames struct {
	mu    sync.Mutex
	paths map[string]bool
}

// note computes the path as SocketAddress in containerd's pkg/shim/util_unix.go does.
func (n *socketNames) note(address, namespace, id string) {
	sum := sha256.Sum256([]byte(filepath.Join(address, namespace, id)))
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.paths == nil {
		n.paths = map[string]bool{}
	}
	n.paths[filepath.Join(sharedSocketDir, fmt.Sprintf("%x", sum))] = true
}

// sharedSockets lists those of the daemon's sockets in sharedSocketDir that exist.
func (d *Daemon) sharedSockets() []string {
	d.sockets.mu.Lock()
	defer d.sockets.mu.Unlock()
	var found []string
	for path := range d.sockets.paths {
		if _, err := os.Lstat(path); err == nil {
			found = append(found, path)
		}
	}
	return found
}
