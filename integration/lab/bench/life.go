package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/lab/bench/report"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// noop is the command of every handler and every exec: busybox is static, and its true does nothing.
const noop = "/bin/true"

var (
	// idleInit sleeps, and ends at SIGTERM. It says when it would.
	idleInit = []string{"/bin/sh", "-c", "trap 'exit 0' TERM; echo ready; sleep 1000000 & wait"}
	// busyInit takes all the time that it gets.
	busyInit = []string{"/bin/sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do :; done"}

	handlers = map[string]string{
		"lifecycle-shim.io/postStart": `{"exec": {"command": ["` + noop + `"]}}`,
		"lifecycle-shim.io/preStop":   `{"exec": {"command": ["` + noop + `"]}}`,
	}
)

// circumstances are those of a scene's containers.
type circumstances struct {
	seccomp   bool // docker's default profile, as containerd has it
	throttled bool // to 5 % of one CPU, with a busy init
}

// container makes the record of a container that runs an init.
func (s *site) container(ctx context.Context, client *harness.Client, runtime string, c circumstances, options any, annotations map[string]string) (*harness.Container, error) {
	config := harness.ContainerConfig{
		ID: s.nextID("c"), Args: idleInit, Runtime: runtime, Options: options, Annotations: annotations,
		RootFS: s.rootfs, ReadOnly: true, CgroupParent: "/" + name,
	}
	if c.throttled {
		config.Args = busyInit
	}
	config.Edit = func(spec *specs.Spec) {
		if c.seccomp {
			spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
		}
		if c.throttled {
			spec.Linux.Resources.CPU = &specs.LinuxCPU{Quota: new(int64(5000)), Period: new(uint64(100000))}
		}
	}
	return client.NewContainer(ctx, config)
}

// awaitReady waits until init would obey SIGTERM: pid 1 of a pid namespace is not even killed by a signal that it does not handle.
func awaitReady(ctx context.Context, c *harness.Container) error {
	return harness.Poll(ctx, patience, "the container's init", func() (bool, error) {
		return strings.Contains(c.Output(), "ready"), nil
	})
}

// life is a container from Create to Delete, each step timed on the client's side of containerd's API. The labels are those of
// report's series.
type life struct {
	runtime                      string
	annotations                  map[string]string
	create, start, stop, deleted string
}

var (
	lifeNone  = life{oursRuntime, nil, report.NoneCreate, report.NoneStart, report.NoneStop, report.NoneDelete}
	lifeWith  = life{oursRuntime, handlers, report.WithCreate, report.WithStart, report.WithStop, report.WithDelete}
	lifeStock = life{harness.StockRuntime, nil, report.StockCreate, report.StockStart, report.StockStop, report.StockDelete}
)

// live makes a container live, and rests for pause before its stop.
func (s *site) live(ctx context.Context, l life, c circumstances, pause time.Duration) (values map[string]float64, err error) {
	container, err := s.container(ctx, s.client, l.runtime, c, nil, l.annotations)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, container.Remove(ctx)) }()
	values = map[string]float64{}
	began := time.Now()
	if _, err := container.Create(ctx); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	values[l.create] = since(began)
	_, took, err := container.Start(ctx)
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	values[l.start] = millis(took)
	if err := awaitReady(ctx, container); err != nil {
		return nil, err
	}
	if err := idle(ctx, pause); err != nil {
		return nil, err
	}
	if values[l.stop], err = stop(ctx, container); err != nil {
		return nil, err
	}
	if _, took, err = container.Delete(ctx); err != nil {
		return nil, fmt.Errorf("delete: %w", err)
	}
	values[l.deleted] = millis(took)
	if l.annotations != nil {
		told, err := s.told(ctx, container.ID)
		if err != nil {
			return nil, err
		}
		maps.Copy(values, told)
	}
	return values, nil
}

// stop takes from the Kill to the answer of a Wait that waits already, in ms.
func stop(ctx context.Context, c *harness.Container) (float64, error) {
	type exit struct {
		at     time.Time
		status uint32
		err    error
	}
	exited := make(chan exit, 1)
	go func() {
		status, err := c.Wait(ctx)
		exited <- exit{time.Now(), status, err}
	}()
	began := time.Now()
	if _, err := c.Kill(ctx, syscall.SIGTERM); err != nil {
		return 0, fmt.Errorf("kill: %w", err)
	}
	e := <-exited
	if e.err == nil && e.status != 0 {
		e.err = fmt.Errorf("exit status %d", e.status)
	}
	if e.err != nil {
		return 0, fmt.Errorf("wait for the stopped container: %w", e.err)
	}
	return millis(e.at.Sub(began)), nil
}

// told is how long the container's handlers took, as the shim's events report: from its decision to run one, to the end that it
// has seen.
func (s *site) told(ctx context.Context, id string) (map[string]float64, error) {
	values := map[string]float64{}
	err := harness.Poll(ctx, patience, "the events of two handlers", func() (bool, error) {
		for _, event := range s.events.Of(id) {
			e, ok := event.Value.(*lifecyclev1.HandlerFinished)
			if !ok {
				continue
			}
			if e.Result != "Succeeded" {
				return false, fmt.Errorf("%s %s: %s", e.Handler, e.Result, e.Message)
			}
			values[e.Handler+" handler"] = millis(e.Took.AsDuration())
		}
		return len(values) == 2, nil
	})
	return values, err
}
