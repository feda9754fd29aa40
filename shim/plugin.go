package shim

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
)

// register makes our service the task service of containerd's shim runner, in
// the place of the runc shim's own plugin, which must not be imported.
func register() {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   initService,
	})
}

func initService(ic *plugin.InitContext) (any, error) {
	publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	ended, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	sd := ended.(shutdown.Service)
	tap := newTap(publisher.(shim.Publisher))
	sd.RegisterCallback(tap.flush)
	inner, err := task.NewTaskService(ic.Context, tap, sd)
	if err != nil {
		return nil, err
	}
	sd.RegisterCallback(removeSockets(ownSockets()))
	// Opened now, so that a shim never meets a host of another build. That there
	// is none is told to whoever needs it.
	host, hostErr := hookexec.OpenHost(reaper.Default)
	ctx, cancel := context.WithCancel(ic.Context)
	sd.RegisterCallback(func(context.Context) error { cancel(); return nil })
	return newService(ctx, inner, tap, host, hostErr), nil
}

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

// removeSockets is a shutdown callback. pkg/shim finds the sockets through the
// bundle of the pod's first container, which may be gone long before the shim
// ends.
func removeSockets(paths []string) func(context.Context) error {
	return func(context.Context) error {
		var errs []error
		for _, path := range paths {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}
}
