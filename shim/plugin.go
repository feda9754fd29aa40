package shim

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/containerd/v2/plugins"
	containerdversion "github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	"github.com/containerd/ttrpc"

	"github.com/lifecycle-shim/lifecycle-shim/hookexec"
	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/bounds"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/launch"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/tap"
	"github.com/lifecycle-shim/lifecycle-shim/shim/version"
)

// processors is the shim's GOMAXPROCS, as in pkg/shim (setRuntime). containerd's runc
// manager starts a shim with 4. Each further one costs 100 to 150 kB for good: memory
// caches, threads and their stacks. With a single one, a fork would halt the rest of the
// pod until the new process has begun.
const processors = 2

// actionSettings is the argument that asks for the node's settings.
const actionSettings = "settings"

// Main is the shim binary. Its start action is our own, everything else is containerd's
// shim runner. It returns the exit status.
func Main(ctx context.Context, args []string) int {
	if len(args) == 2 && args[1] == actionSettings {
		return options.Show(options.ConfigPath, os.Stdout, os.Stderr)
	}
	bounds.Log(log.L.Logger)
	var sockets launch.Sockets
	if launch.Serves(args) {
		sockets = launch.OwnSockets()
		if err := launch.SetLog(ctx, slices.Contains(args, "-debug")); err != nil {
			sockets.Remove()
			fmt.Fprintf(os.Stderr, "%s: %s\n", launch.RuntimeName, shorten.Error(err))
			return 1
		}
	}
	register(sockets)
	setVersion()
	manager := launch.NewManager()
	if !launch.IsStart(args) {
		runtime.GOMAXPROCS(min(processors, runtime.NumCPU()))
		shim.RunShim(ctx, manager, launch.WithoutLog)
		sockets.Remove()
		return 0
	}
	if err := launch.Start(ctx, manager, args, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", launch.RuntimeName, shorten.Error(err)) // containerd makes it the error of the Create
		return 1
	}
	return 0
}

// setVersion makes -v and -info print this shim's version and the version of containerd
// that it contains. containerd's runner would print only the latter.
func setVersion() {
	containerdversion.Revision = "containerd " + strings.TrimSuffix(containerdversion.Version, "+unknown")
	containerdversion.Version = version.Version
}

// register makes our service the task service of containerd's shim runner, instead of the
// runc shim's own plugin, which must not be imported. sockets are those that the shim is
// going to serve.
func register(sockets launch.Sockets) {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			service, err := initService(ic, sockets)
			if err != nil { // pkg/shim exits
				sockets.Remove()
			}
			return service, err
		},
	})
}

func initService(ic *plugin.InitContext, sockets launch.Sockets) (any, error) {
	bundle, err := os.Getwd()
	if err != nil { // it has been removed: no Create will come, and no client would end this shim
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
	// Opened now, so that a shim never uses a host of another build. If there is none, only
	// containers that need it are refused.
	host, hostErr := hookexec.OpenHost(reaper.Default)
	service := newService(ic.Context, inner, ending, events, host, hostErr)
	sd.RegisterCallback(service.end)
	ending.expectFirst(flag.Lookup("id").Value.String(), bundle) // pkg/shim has parsed the flag
	return service, nil
}

// cancelled returns a context that ends with ctx, and with context.Canceled. The context
// of a shim ends with shutdown.ErrShutdown, which containerd's watcher of cgroup v1 OOM
// events takes for a failed epoll_wait. It would then loop until the process exits, log an
// error each time, and each time close its file's number, which is another file's by then.
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
				log.G(ctx).Errorf("cannot answer %s: panic in the request: %v\n%s", info.FullMethod, value, debug.Stack())
				err = toGRPC(&panicError{value: value})
			}
			response, err = bounds.Answer(response, err)
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
