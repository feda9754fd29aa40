package shim

import (
	"cmp"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lifecycle-shim/lifecycle-shim/oci"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/options"
	"github.com/lifecycle-shim/lifecycle-shim/shim/internal/runner"
	"github.com/lifecycle-shim/lifecycle-shim/shim/lifecycle"
)

// plan is what a Create is going to do.
type plan struct {
	// options for the runc service.
	options *anypb.Any
	// handlers is nil for a container without handlers.
	handlers *handlersPlan
}

// handlersPlan is what a container with handlers is made from.
type handlersPlan struct {
	// restored: the container is restored from a checkpoint.
	restored    bool
	machine     lifecycle.Config
	runner      runner.Config
	metricsFile string
	// maxTimeout bounds trials, 0 if there is no limit.
	maxTimeout time.Duration
}

// plan reads what the container asks for. It changes nothing.
func (s *service) plan(r *taskapi.CreateTaskRequest) (plan, error) {
	spec, err := oci.ReadSpec(r.Bundle)
	if err != nil {
		return plan{options: r.Options}, nil // the runtime returns its own error for a bundle that cannot be read
	}
	wanted, err := spec.Lifecycle()
	if err != nil {
		return plan{}, err
	}
	sent, err := options.Read(r.Options)
	if err != nil {
		return plan{}, err
	}
	forRunc, err := sent.ForRunc(spec.SystemdCgroup())
	if err != nil || wanted == nil {
		return plan{options: forRunc}, err
	}
	settings, err := sent.Settings(options.ConfigPath)
	if err != nil {
		return plan{}, err
	}
	if err := wanted.Within(settings.Limits); err != nil {
		return plan{}, err
	}
	if s.hostErr != nil && runner.NeedsHost(wanted.Block) {
		return plan{}, &HandlerError{Err: s.hostErr}
	}
	systemd := sent.Runc.GetSystemdCgroup() || spec.SystemdCgroup()
	return plan{options: forRunc, handlers: &handlersPlan{
		restored:    r.Checkpoint != "",
		machine:     newConfig(wanted, settings, r.Checkpoint != ""),
		metricsFile: settings.MetricsFile,
		maxTimeout:  settings.Limits.MaxTimeout,
		runner: runner.Config{
			Task: s.TTRPCTaskService, Host: s.host, ID: r.ID, Bundle: r.Bundle, Block: wanted.Block,
			OutputLimit: settings.OutputLimit, LogOutput: settings.LogOutput, Stdout: r.Stdout, Terminal: r.Terminal,
			Runtime: sent.Runc.GetBinaryName(), SystemdCgroup: systemd, NoPivotRoot: sent.Runc.GetNoPivotRoot(),
			NoNewKeyring: sent.Runc.GetNoNewKeyring(), CgroupsPath: cmp.Or(spec.Linux.CgroupsPath, defaultCgroup(r.ID, systemd)),
		},
	}}, nil
}

// newConfig returns what the machine needs to know.
func newConfig(wanted *oci.Lifecycle, settings options.Settings, restored bool) lifecycle.Config {
	config := lifecycle.Config{
		CRI:                     wanted.CRI,
		StopSignal:              wanted.StopSignal,
		GracePeriod:             oci.Seconds(wanted.Block.GetTerminationGracePeriodSeconds()),
		PodGracePeriod:          wanted.PodGracePeriod,
		DefaultPostStartTimeout: settings.PostStartTimeout,
		DefaultGracePeriod:      settings.GracePeriod,
		MaxGracePeriod:          settings.Limits.MaxGracePeriod,
	}
	most := settings.Limits.MaxTimeout
	if !restored {
		config.PreStart, config.PostStart = handlerConfig(wanted.Block.PreStart, most), handlerConfig(wanted.Block.PostStart, most)
	}
	config.PreStop, config.OnExit = handlerConfig(wanted.Block.PreStop, most), handlerConfig(wanted.Block.OnExit, most)
	return config
}

// handlerConfig returns what the machine needs to know of a handler. A sleep has no limit
// there: it is at most as long as the operator allows, or it would have been refused. If
// it is exactly as long, the limit would come first.
func handlerConfig(handler *lifecyclev1.Handler, most time.Duration) *lifecycle.Handler {
	if handler == nil {
		return nil
	}
	if handler.Sleep != nil {
		most = 0
	}
	return &lifecycle.Handler{
		Timeout:       oci.Seconds(handler.GetTimeoutSeconds()),
		Most:          most,
		IgnoreFailure: handler.FailurePolicy == oci.FailurePolicyIgnore,
	}
}

// defaultCgroup returns what runc takes for an empty cgroupsPath (libcontainer/specconv,
// CreateCgroupConfig). Without systemd it is relative to the cgroup of the process that
// calls runc, which may be another one for each controller of cgroup v1.
func defaultCgroup(id string, systemd bool) string {
	if systemd {
		return "system.slice:runc:" + id
	}
	return id
}
