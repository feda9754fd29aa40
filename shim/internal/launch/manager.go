package launch

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcmanager "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	runcshim "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/bounds"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
)

// RuntimeName is the runtime type that selects this shim.
const RuntimeName = "io.containerd.lifecycle.v2"

// Manager is the runc shim's own, with options translated.
type Manager struct{ shim.Shim }

// NewManager returns the manager of this shim.
func NewManager() *Manager { return &Manager{Shim: runcmanager.NewShimManager(RuntimeName)} }

// Start passes on runc's options, in any form.
func (m *Manager) Start(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	translated := proto.Clone(params).(*bootapi.BootstrapParams)
	for _, extension := range translated.Extensions {
		if sent, err := options.Read(extension.GetValue()); err == nil && sent.Runc != nil {
			if value, err := anypb.New(sent.Runc); err == nil {
				extension.Value = value
			}
		}
	}
	return m.Shim.Start(ctx, translated)
}

// Stop is the delete action, which cleans up after a dead shim. It also removes the socket
// that the dead shim has left behind, unless another shim serves it by now.
func (m *Manager) Stop(ctx context.Context, id string) (status shim.StopStatus, err error) {
	defer func() { err = bounds.Printed(err) }()
	bundle := filepath.Join("..", id)
	if runner.HasLeftover(bundle) {
		stopOnExit(ctx, bundle)
	}
	status, err = m.Shim.Stop(ctx, id)
	if address, err := shim.ReadAddress(filepath.Join(bundle, addressFile)); err == nil {
		removeDead(ctx, address)
	}
	return status, err
}

// removeWait bounds removeDead: containerd kills the delete action after 5 s, and keeps the
// bundle then. A socket that stays is replaced by the next shim of its name.
const removeWait = time.Second

// removeDead removes a socket that no shim serves. It holds off the start action meanwhile:
// between creating a socket and listening on it, a shim seems to be dead.
func removeDead(ctx context.Context, address string) {
	if _, err := os.Lstat(strings.TrimPrefix(address, "unix://")); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, removeWait)
	defer cancel()
	unlock, err := lockGroupsSoon(ctx)
	if err == nil {
		defer unlock()
		var served bool
		if served, err = isServed(address, removeWait); err == nil && !served {
			_ = shim.RemoveSocket(address) // it may have been removed
		}
	}
	if err != nil {
		log.G(ctx).WithError(err).Warn("cannot check the socket that the shim has left behind: it stays")
	}
}

// stopOnExit ends the onExit that a dead shim has left running, before what it needs of the
// container is removed.
func stopOnExit(ctx context.Context, bundle string) {
	runtime, err := runcshim.ReadRuntime(bundle)
	if err == nil {
		bundle, err = filepath.Abs(bundle)
	}
	if err == nil {
		err = runner.RemoveLeftover(ctx, bundle, runtime)
	}
	if err != nil {
		log.G(ctx).WithError(err).Error("cannot remove what an onExit has left behind")
	}
}
