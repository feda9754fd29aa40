package trust

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// States of a unix socket in sock_diag(7): the kernel uses TCP's numbers.
const (
	established = 1  // TCP_ESTABLISHED
	listening   = 10 // TCP_LISTEN
)

// Sockets are the unix sockets that had a path when the kernel listed them.
type Sockets []socket

type socket struct {
	inode uint32
	state uint8
	path  string
}

// unixDiagRequest asks sock_diag(7) for all unix sockets with their names. It is the
// kernel's struct unix_diag_req.
type unixDiagRequest struct{}

const (
	unixDiagRequestSize = 24
	unixDiagSize        = 16 // struct unix_diag_msg, before its attributes
	showName            = 1  // UDIAG_SHOW_NAME
	unixDiagName        = 0  // UNIX_DIAG_NAME
)

func (unixDiagRequest) Len() int { return unixDiagRequestSize }

// Serialize sets the family, the states and the attributes to show. All other bytes are 0.
func (unixDiagRequest) Serialize() []byte {
	request := make([]byte, unixDiagRequestSize)
	request[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(request[4:], 1<<established|1<<listening)
	binary.NativeEndian.PutUint32(request[12:], showName)
	return request
}

// ReadSockets asks the kernel for the unix sockets of our network namespace. The library's
// function for it (netlink.UnixSocketDiagInfo, 1.3.1) reads past the end of a name. Sockets
// without a path are not kept: any user can have many thousands.
func ReadSockets() (Sockets, error) {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddData(unixDiagRequest{})
	var sockets Sockets
	err := request.ExecuteIter(unix.NETLINK_INET_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(message []byte) bool {
		if found, ok := parseSocket(message); ok {
			sockets = append(sockets, found)
		}
		return true
	})
	if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) { // sockets that came or went meanwhile may be missing
		return nil, fmt.Errorf("cannot read the kernel's table of unix sockets: %w", err)
	}
	return sockets, nil
}

// parseSocket returns false for a socket without a path. An abstract name begins with a NUL,
// and a path may end with one.
func parseSocket(message []byte) (socket, bool) {
	if len(message) < unixDiagSize || message[0] != unix.AF_UNIX {
		return socket{}, false
	}
	attributes, err := nl.ParseRouteAttr(message[unixDiagSize:])
	if err != nil {
		return socket{}, false
	}
	for _, attribute := range attributes {
		if attribute.Attr.Type == unixDiagName {
			path := strings.TrimSuffix(string(attribute.Value), "\x00")
			return socket{binary.NativeEndian.Uint32(message[4:]), message[2], path}, filepath.IsAbs(path)
		}
	}
	return socket{}, false
}

// ListenedBy returns the paths of the sockets on which the process listens. Inode numbers
// have 32 bits, and a process that does nothing but create sockets makes them wrap around
// within hours. A number that two sockets share is therefore ignored.
func (s Sockets) ListenedBy(p *Process) []string {
	held := map[uint32]string{}
	twice := map[uint32]bool{}
	for _, socket := range s {
		if socket.state != listening || !p.inodes[socket.inode] {
			continue
		}
		other, known := held[socket.inode]
		twice[socket.inode] = twice[socket.inode] || known && other != socket.path // a dump may repeat one
		held[socket.inode] = socket.path
	}
	var paths []string
	for inode, path := range held {
		if !twice[inode] && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// Connections counts the connections to a path that the process has accepted. These have the
// listener's name. Processes in another root directory can use the same name, so only
// sockets that the process holds are counted.
func (s Sockets) Connections(p *Process, path string) int {
	count := 0
	for _, socket := range s {
		if socket.state == established && socket.path == path && p.inodes[socket.inode] {
			count++
		}
	}
	return count
}

// Dial connects to a unix socket on which root listens, and returns the pid of the process
// that called listen(2). That process may have exited: a shim inherits its socket from the
// process that started it.
func Dial(ctx context.Context, path string) (net.Conn, int, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, 0, err
	}
	peer, err := peerOf(conn.(*net.UnixConn))
	if err == nil && peer.Uid != 0 {
		err = fmt.Errorf("%s: uid %d listens there, not root", path, peer.Uid)
	}
	if err != nil {
		_ = conn.Close()
		return nil, 0, err
	}
	return conn, int(peer.Pid), nil
}

// peerOf returns the credentials that the peer had when it called listen(2) (SO_PEERCRED,
// unix(7)).
func peerOf(conn *net.UnixConn) (peer *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if controlErr != nil {
		return nil, controlErr
	}
	return peer, err
}

// Server returns the process that listens on a socket, if Open trusts it.
func Server(ctx context.Context, path string) (*Process, error) {
	conn, pid, err := Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	_ = conn.Close()
	if pid == 0 {
		return nil, fmt.Errorf("%s: its server runs in another pid namespace: run lifecyclectl there", path)
	}
	return Open(pid)
}

// Dial connects to a socket on which that process listens.
func (p *Process) Dial(ctx context.Context, path string) (net.Conn, error) {
	conn, pid, err := Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	if pid != p.PID {
		_ = conn.Close()
		return nil, fmt.Errorf("%s: process %d listens there, not %d", path, pid, p.PID)
	}
	return conn, nil
}

// Client is a gRPC client of a socket on which that process listens.
func (p *Process) Client(path string) (*grpc.ClientConn, error) {
	// The target is not the path: gRPC would parse it as a URL or look it up in the DNS.
	return grpc.NewClient("passthrough:///localhost",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return p.Dial(ctx, path) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}
