package hookexec

import (
	"context"
	"strconv"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// TCPSocket opens a connection from inside the container's network namespace, and closes
// it.
type TCPSocket struct {
	NetNS NetNS
	// Socket has been checked by package oci.
	Socket *lifecyclev1.TCPSocketAction
}

// Attempt implements Action.
func (s *TCPSocket) Attempt(ctx context.Context) Result {
	host, err := s.NetNS.host(s.Socket.Host)
	if err != nil {
		return transportFailure(err)
	}
	conn, err := s.NetNS.dial(ctx, host, strconv.Itoa(int(s.Socket.Port)))
	if err != nil {
		return transportFailure(err)
	}
	_ = conn.Close() // the connection is all that was asked for
	return Result{Outcome: lifecycle.Succeeded, ExitCode: -1}
}

var _ Action = (*TCPSocket)(nil)
