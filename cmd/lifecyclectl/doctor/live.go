package doctor

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
)

// Live is a running containerd that answers.
type Live struct {
	Process *trust.Process
	// Address of its socket.
	Address string
	Version string
}

// FindLive returns the containerd with that pid, with the socket on which it answers.
func FindLive(ctx context.Context, pid int) (*Live, error) {
	process, err := trust.Open(pid)
	if err != nil {
		return nil, err
	}
	sockets, err := trust.ReadSockets()
	if err != nil {
		return nil, err
	}
	lastErr := fmt.Errorf("process %d listens on no socket", pid)
	for _, address := range served(sockets, process) {
		version, err := (server{process, address}).version(ctx)
		if err == nil {
			return &Live{process, address, version}, nil
		}
		lastErr = err
	}
	return nil, lastErr
}

// served returns the sockets of a process that may be containerd's gRPC socket.
func served(sockets trust.Sockets, process *trust.Process) []string {
	return slices.DeleteFunc(sockets.ListenedBy(process), func(socket string) bool {
		return strings.HasSuffix(socket, ".ttrpc") || filepath.Base(socket) == nriSocket
	})
}

// CRI returns the configuration that its CRI plugin uses.
func (l *Live) CRI(ctx context.Context) (*CRI, error) {
	found, failure := server{l.Process, l.Address}.cri(ctx)
	if found == nil {
		return nil, fmt.Errorf("its CRI plugin does not answer: %s", failure)
	}
	return found, nil
}

// ParseDump parses the output of `containerd config dump`. disabled is set if it disables CRI.
func ParseDump(text []byte) (found *CRI, disabled bool, err error) { return parseDump(text) }

// FindKubelet returns the node's kubelet, or nil if it has no configuration.
func FindKubelet() *Kubelet { return findKubelet() }

// CheckSettings asks an installed shim whether the node's settings are valid.
func CheckSettings(ctx context.Context, shim string) error {
	_, err := run(ctx, shim, "settings")
	return err
}
