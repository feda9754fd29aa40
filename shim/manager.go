package shim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runcmanager "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	runcshim "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/pkg/shim"
	containerdversion "github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

// RuntimeName is the runtime type that selects this shim.
const RuntimeName = "io.containerd.lifecycle.v2"

// processors is how much of the shim's Go code can run at once, as in pkg/shim (setRuntime). containerd's runc manager
// starts a shim with 4: each one more costs 100 to 150 kB for good, for its caches of memory, its threads and their stacks.
// With a single one, whatever forks a process would halt the rest of the pod until that has begun.
const processors = 2

// actionSettings is the argument that asks for the node's settings.
const actionSettings = "settings"

// Main is the shim binary: its start action is our own, everything else is
// containerd's shim runner. It returns the exit status.
func Main(ctx context.Context, args []string) int {
	if len(args) == 2 && args[1] == actionSettings {
		return options.Show(options.ConfigPath, os.Stdout, os.Stderr)
	}
	boundLog(log.L.Logger)
	var sockets []socketFile
	if serves(args) {
		sockets = ownSockets()
		if err := setLog(ctx, slices.Contains(args, "-debug")); err != nil {
			removeSockets(sockets)
			fmt.Fprintf(os.Stderr, "%s: %s\n", RuntimeName, shorten.Error(err))
			return 1
		}
	}
	register(sockets)
	tellVersion()
	manager := newManager()
	if !isStart(args) {
		runtime.GOMAXPROCS(min(processors, runtime.NumCPU()))
		shim.RunShim(ctx, manager, withoutLog)
		removeSockets(sockets)
		return 0
	}
	if err := start(ctx, manager, args, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", RuntimeName, shorten.Error(err)) // containerd makes it the error of the Create
		return 1
	}
	return 0
}

// tellVersion makes -v and -info tell this shim's version, and of which containerd
// it is made, where containerd's runner would tell containerd's alone.
func tellVersion() {
	containerdversion.Revision = "containerd " + strings.TrimSuffix(containerdversion.Version, "+unknown")
	containerdversion.Version = version.Version
}

// manager is the runc shim's own, with options translated.
type manager struct{ shim.Shim }

func newManager() *manager { return &manager{Shim: runcmanager.NewShimManager(RuntimeName)} }

// Start hands runc's options on, whichever form they came in.
func (m *manager) Start(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
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

// Stop is the delete action, which cleans up after a shim that has died. The
// socket that it leaves behind is removed too, unless another shim serves it by
// now.
func (m *manager) Stop(ctx context.Context, id string) (status shim.StopStatus, err error) {
	defer func() { err = boundPrinted(err) }()
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

// removeDead removes a socket that no shim serves. Nobody starts a shim meanwhile: between
// the making of a socket and the listening on it, its shim seems to be dead.
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
		log.G(ctx).WithError(err).Warn("cannot look at the socket that the shim has left")
	}
}

// stopOnExit ends the onExit that a dead shim has left running, before the
// container's own things are removed from below it.
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
