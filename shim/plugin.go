package shim

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/containerd/ttrpc"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
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

// RegisterTTRPC serves the task API in both its versions.
func (s *service) RegisterTTRPC(server *ttrpc.Server) error {
	taskapi.RegisterTTRPCTaskService(server, s)
	registerTaskV2(server, s)
	lifecyclev1.RegisterLifecycleService(server, &statusService{service: s})
	lifecyclev1.RegisterLaunchService(server, &launchService{service: s})
	return nil
}

// UnaryServerInterceptor bounds every answer, and answers a panic in one request as an
// error: the shim serves a whole pod. It keeps the runc service's own interceptor, if it
// has one.
func (s *service) UnaryServerInterceptor() ttrpc.UnaryServerInterceptor {
	inner, chained := s.TTRPCTaskService.(shim.TTRPCServerUnaryOptioner)
	return func(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (response any, err error) {
		defer func() {
			if value := recover(); value != nil {
				log.G(ctx).Errorf("panic in %s: %v\n%s", info.FullMethod, value, debug.Stack())
				err = toGRPC(&panicError{value: value})
			}
			response, err = bound(response, err)
		}()
		if chained {
			return inner.UnaryServerInterceptor()(ctx, unmarshal, info, method)
		}
		return method(ctx, unmarshal)
	}
}

// taskV2 is the name under which containerd 1.6 and 1.7 call the task service.
// The messages of versions 2 and 3 are the same on the wire.
const taskV2 = "containerd.task.v2.Task"

func registerTaskV2(server *ttrpc.Server, task taskapi.TTRPCTaskService) {
	server.RegisterService(taskV2, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"State":      method(task.State),
		"Create":     method(task.Create),
		"Start":      method(task.Start),
		"Delete":     method(task.Delete),
		"Pids":       method(task.Pids),
		"Pause":      method(task.Pause),
		"Resume":     method(task.Resume),
		"Checkpoint": method(task.Checkpoint),
		"Kill":       method(task.Kill),
		"Exec":       method(task.Exec),
		"ResizePty":  method(task.ResizePty),
		"CloseIO":    method(task.CloseIO),
		"Update":     method(task.Update),
		"Wait":       method(task.Wait),
		"Stats":      method(task.Stats),
		"Connect":    method(task.Connect),
		"Shutdown":   method(task.Shutdown),
	}})
}

func method[Request, Response any](call func(context.Context, *Request) (*Response, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		request := new(Request)
		if err := unmarshal(request); err != nil {
			return nil, err
		}
		return call(ctx, request)
	}
}
