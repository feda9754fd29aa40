package shim

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/tap"
)

// register makes our service the task service of containerd's shim runner, in
// the place of the runc shim's own plugin, which must not be imported.
// sockets are those that the shim is going to serve.
func register(sockets []socketFile) {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			service, err := initService(ic, sockets)
			if err != nil { // pkg/shim exits
				removeSockets(sockets)
			}
			return service, err
		},
	})
}

func initService(ic *plugin.InitContext, sockets []socketFile) (any, error) {
	bundle, err := os.Getwd()
	if err != nil { // it has been removed: no Create will come, and nobody ends this shim
		return nil, fmt.Errorf("find the bundle: %w", err)
	}
	publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	ended, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	sd := ended.(shutdown.Service)
	events := tap.New(publisher.(shim.Publisher))
	ending := newEnding(sd, sockets)
	inner, err := task.NewTaskService(cancelled(ic.Context), events, ending)
	if err != nil {
		return nil, err
	}
	options.WarnOfNode(ic.Context, options.ConfigPath)
	// Opened now, so that a shim never meets a host of another build. That there
	// is none is told to whoever needs it.
	host, hostErr := hookexec.OpenHost(reaper.Default)
	service := newService(ic.Context, inner, ending, events, host, hostErr)
	sd.RegisterCallback(service.end)
	ending.expectFirst(flag.Lookup("id").Value.String(), bundle) // pkg/shim has parsed the flag
	return service, nil
}

// cancelled returns a context that ends with ctx, and with context.Canceled. The context
// of a shim ends with shutdown.ErrShutdown, which containerd's watcher of cgroup v1 OOM
// events takes for a failed epoll_wait: it goes on until the process exits, logs each
// time, and each time closes the number of its file, which is another one's by then.
func cancelled(ctx context.Context) context.Context {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, cancel)
	return own
}
