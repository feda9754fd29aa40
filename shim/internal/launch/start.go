// Package launch starts a shim, finds one, cleans up after one, and describes the runtime:
// the actions start, delete and -info of the shim's binary. It also has what a shim does
// with its sockets and its log.
//
// containerd passes the start parameters to a shim in two ways, and takes its answer in
// three, by its version. All versions from 1.6 to 2.4 understand one answer:
// the plain address, which means task API version 2. With version 3 a shim that
// is found by runtime_path alone would be lost when containerd restarts
// (docs/understand/decisions.md).
package launch

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
)

const (
	// actionStart is the argument that asks to start a shim and to print its
	// address.
	actionStart = "start"
	// actionDelete asks to clean up after a shim that has died.
	actionDelete = "delete"
	// maxParams bounds what is read from stdin, as in containerd's pkg/shim.
	maxParams = 10 << 20
	// addressFile is where the delete action finds the address of a dead shim.
	addressFile = "address"
	// lockPause is between two tries of lockGroupsSoon.
	lockPause = 5 * time.Millisecond
	// socketDirLink is where pkg/shim looks for a socket directory other than the
	// default one, to remove the debug socket from it.
	socketDirLink = "s"
)

// IsStart reports whether the arguments ask for the start action.
func IsStart(args []string) bool { return len(args) > 1 && args[len(args)-1] == actionStart }

// Serves reports whether this process is the shim itself, which containerd's runner starts
// without an action. Only the shim inherits sockets. -v and -info come without a namespace.
func Serves(args []string) bool {
	return slices.Contains(args, "-namespace") && args[len(args)-1] != actionDelete && !IsStart(args)
}

// Start runs the start action: it starts the shim, or finds the one of the same pod, and
// prints its address. It prints nothing else to stdout.
func Start(ctx context.Context, manager shim.Shim, args []string, stdin io.Reader, stdout io.Writer) error {
	params, err := startParams(args, stdin)
	if err != nil {
		return err
	}
	if dir := params.GetSocketDir(); dir != "" {
		if err := os.Symlink(dir, socketDirLink); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("remember the socket directory: %w", err)
		}
	}
	address, err := startOrFind(namespaces.WithNamespace(ctx, params.Namespace), manager, params)
	if err != nil {
		return err
	}
	if err := os.WriteFile(addressFile, []byte(address), 0o600); err != nil {
		return fmt.Errorf("write the shim's address: %w", err)
	}
	_, err = io.WriteString(stdout, address)
	return err
}

// startOrFind returns the address of the shim that serves the container's group, if that
// shim will not end before the container has been created; otherwise of a new one. The
// manager looks for one too, but takes it for dead after 100 ms: on a busy machine it would
// start a second one, and the first would never end, nor its containers be managed.
func startOrFind(ctx context.Context, manager shim.Shim, params *bootapi.BootstrapParams) (address string, err error) {
	group := readGroup()
	if group == "" {
		return startNew(ctx, manager, params)
	}
	unlock, err := lockGroups()
	if err != nil {
		return "", err
	}
	defer unlock()
	address, err = shim.CreateSocketAddress(ctx, cmp.Or(params.GetSocketDir(), defaultSocketDir), params.ContainerdGrpcAddress, group, false)
	if err != nil {
		return "", err
	}
	stays, err := willServe(ctx, address, params.InstanceID)
	switch {
	case err != nil:
		return "", fmt.Errorf("the shim of %q: %w", group, err)
	case stays:
		return address, nil
	}
	return startNew(ctx, manager, params)
}

func startNew(ctx context.Context, manager shim.Shim, params *bootapi.BootstrapParams) (address string, err error) {
	result, err := manager.Start(ctx, params)
	return result.GetAddress(), err
}

// defaultSocketDir is where shims listen unless containerd names another directory
// (containerd's runc manager).
var defaultSocketDir = filepath.Join(defaults.DefaultStateDir, "s")

// groupAnnotations make containers share a shim: the first one that is set counts
// (containerd's runc manager, groupLabels).
var groupAnnotations = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// readGroup returns the container's group, empty if it has none.
func readGroup() string {
	spec, err := oci.ReadSpec(".")
	if err != nil {
		return "" // the manager returns its own error
	}
	for _, key := range groupAnnotations {
		if group, ok := spec.Annotations[key]; ok {
			return group
		}
	}
	return ""
}

// lockGroups lets one start at a time look for the shim of a group: two that find none
// would start two shims, and one of them would never end. The lock is on the directory of
// the namespace's bundles, so that it leaves no file.
func lockGroups() (unlock func(), err error) { return flockGroups(unix.LOCK_EX) }

func flockGroups(how int) (unlock func(), err error) {
	bundles, err := os.Open("..")
	if err != nil {
		return nil, fmt.Errorf("lock the group of shims: %w", err)
	}
	if err := unix.Flock(int(bundles.Fd()), how); err != nil {
		_ = bundles.Close()
		return nil, fmt.Errorf("lock the group of shims: %w", err)
	}
	return func() { _ = bundles.Close() }, nil
}

// lockGroupsSoon is lockGroups with a limit: a start that holds the lock may take long.
func lockGroupsSoon(ctx context.Context) (unlock func(), err error) {
	for {
		unlock, err := flockGroups(unix.LOCK_EX | unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(lockPause):
		}
	}
}

// startParams reads the flags and stdin, which holds BootstrapParams from
// containerd 2.3 on, and the runtime's options, or nothing, before.
func startParams(args []string, stdin io.Reader) (*bootapi.BootstrapParams, error) {
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var (
		namespace = flags.String("namespace", "", "")
		id        = flags.String("id", "", "")
		address   = flags.String("address", "", "")
		binary    = flags.String("publish-binary", "", "")
		debug     = flags.Bool("debug", false, "")
	)
	flags.String("bundle", "", "") // the working directory is the bundle
	if err := flags.Parse(args[1:]); err != nil {
		return nil, err
	}
	if *namespace == "" || *id == "" {
		return nil, errors.New("start needs -namespace and -id; it is called by containerd")
	}
	input, err := io.ReadAll(io.LimitReader(stdin, maxParams))
	if err != nil {
		return nil, fmt.Errorf("read stdin: %w", err)
	}
	if params := parseParams(input, *namespace, *id); params != nil {
		return params, nil
	}
	params := &bootapi.BootstrapParams{
		InstanceID: *id, Namespace: *namespace, ContainerdGrpcAddress: *address, ContainerdBinary: *binary,
		ContainerdTtrpcAddress: os.Getenv("TTRPC_ADDRESS"),
	}
	if *debug {
		params.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG
	}
	addOptions(params, input)
	return params, nil
}

// parseParams returns nil unless the input is BootstrapParams of this container: the older
// form may look like them.
func parseParams(input []byte, namespace, id string) *bootapi.BootstrapParams {
	var params bootapi.BootstrapParams
	if proto.Unmarshal(input, &params) != nil || params.InstanceID != id || params.Namespace != namespace {
		return nil
	}
	return &params
}

// addOptions passes on the runtime's options of the older form; Manager.Start translates
// both forms.
func addOptions(params *bootapi.BootstrapParams, input []byte) {
	var options anypb.Any
	if len(input) == 0 || proto.Unmarshal(input, &options) != nil {
		return // Create refuses them, with an error that reaches the user
	}
	_ = params.AddExtension(&options) // fails only if it is no Any
}
