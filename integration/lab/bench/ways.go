package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/lab/bench/report"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// residents are the containers that live through a scene, for commands to be run in.
type residents struct {
	site        *site
	stock, crun *harness.Container
	ours        *resident
	oursCrun    *resident
	pid         int // of stock's init
	process     *anypb.Any
}

// resident is one of ours, with the connection to its shim.
type resident struct {
	*harness.Container
	shim *ttrpc.Client
}

func (s *site) settle(ctx context.Context, c circumstances) (_ *residents, err error) {
	r := &residents{site: s}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.leave(ctx))
		}
	}()
	if r.stock, r.pid, err = s.resident(ctx, s.client, harness.StockRuntime, c, nil); err != nil {
		return r, err
	}
	if r.process, err = s.process(ctx, r.stock.ID, noop); err != nil {
		return r, err
	}
	crunOptions := &runcoptions.Options{Root: s.crunDaemon.RuncRoot, BinaryName: "crun"}
	if r.crun, _, err = s.resident(ctx, s.crunClient, harness.StockRuntime, c, crunOptions); err != nil {
		return r, err
	}
	if r.ours, err = s.oursResident(ctx, s.daemon, s.client, c, nil); err != nil {
		return r, err
	}
	r.oursCrun, err = s.oursResident(ctx, s.crunDaemon, s.crunClient, c, crunOptions)
	return r, err
}

func (s *site) resident(ctx context.Context, client *harness.Client, runtime string, c circumstances, options any) (*harness.Container, int, error) {
	container, err := s.container(ctx, client, runtime, c, options, nil)
	if err != nil {
		return nil, 0, err
	}
	pid, _, err := container.Run(ctx)
	if err != nil {
		return container, 0, err
	}
	return container, int(pid), awaitReady(ctx, container)
}

func (s *site) oursResident(ctx context.Context, d *harness.Daemon, client *harness.Client, c circumstances, options any) (*resident, error) {
	container, err := s.container(ctx, client, oursRuntime, c, options, handlers)
	if err != nil {
		return nil, err
	}
	r := &resident{Container: container}
	if _, _, err := container.Run(ctx); err != nil {
		return r, err
	}
	bundle := filepath.Join(d.Dir, "state", "io.containerd.runtime.v2.task", name, container.ID)
	if r.shim, err = dialShim(bundle); err != nil {
		return r, err
	}
	return r, awaitReady(ctx, container)
}

// leave removes the residents that there are.
func (r *residents) leave(ctx context.Context) error {
	var errs []error
	for _, c := range []*harness.Container{r.stock, r.crun} {
		if c != nil {
			errs = append(errs, c.Remove(ctx))
		}
	}
	for _, c := range []*resident{r.ours, r.oursCrun} {
		if c == nil {
			continue
		}
		if c.shim != nil {
			_ = c.shim.Close() // nothing is under way
		}
		errs = append(errs, c.Remove(ctx))
	}
	return errors.Join(errs...)
}

// way runs the no-op command once, and says how long it took in ms.
type way struct {
	name string
	run  func(context.Context, *residents) (float64, error)
}

var ways = []way{
	{report.StockExec, func(ctx context.Context, r *residents) (float64, error) { return r.execRPCs(ctx) }},
	{report.CtrExec, func(ctx context.Context, r *residents) (float64, error) {
		return r.site.timed(r.site.command(ctx, "ctr", "-a", r.site.daemon.Address, "-n", name, "task", "exec", "--exec-id", r.site.nextID("e"), r.stock.ID, noop))
	}},
	{report.RuncExec, func(ctx context.Context, r *residents) (float64, error) {
		root := filepath.Join(r.site.daemon.RuncRoot, name)
		return r.site.timed(r.site.command(ctx, "runc", "--root", root, "exec", r.stock.ID, noop))
	}},
	{report.CrunExec, func(ctx context.Context, r *residents) (took float64, err error) {
		root := filepath.Join(r.site.crunDaemon.RuncRoot, name)
		cmd := r.site.command(ctx, "crun", "--root", root, "exec", r.crun.ID, noop)
		r.site.inCrun.do(func() { took, err = r.site.timed(cmd) })
		return took, err
	}},
	{report.Nsenter, func(ctx context.Context, r *residents) (float64, error) {
		// The container's own namespaces.
		return r.site.timed(r.site.command(ctx, "nsenter", "-t", strconv.Itoa(r.pid), "-m", "-u", "-i", "-p", noop))
	}},
	{report.Trial, func(ctx context.Context, r *residents) (float64, error) { return r.ours.try(ctx) }},
	{report.TrialCrun, func(ctx context.Context, r *residents) (float64, error) { return r.oursCrun.try(ctx) }},
}

// execRPCs is how the kubelet's exec handlers run, less CRI: the four calls of containerd's task service, without streams.
func (r *residents) execRPCs(ctx context.Context) (float64, error) {
	id := r.site.nextID("e")
	ctx = r.site.client.Context(ctx)
	service := r.site.client.TaskService()
	began := time.Now()
	if _, err := service.Exec(ctx, &tasks.ExecProcessRequest{ContainerID: r.stock.ID, ExecID: id, Spec: r.process}); err != nil {
		return 0, fmt.Errorf("exec: %w", err)
	}
	if _, err := service.Start(ctx, &tasks.StartRequest{ContainerID: r.stock.ID, ExecID: id}); err != nil {
		return 0, fmt.Errorf("start of the exec: %w", err)
	}
	exit, err := service.Wait(ctx, &tasks.WaitRequest{ContainerID: r.stock.ID, ExecID: id})
	if err != nil {
		return 0, fmt.Errorf("wait for the exec: %w", err)
	}
	if _, err := service.DeleteProcess(ctx, &tasks.DeleteProcessRequest{ContainerID: r.stock.ID, ExecID: id}); err != nil {
		return 0, fmt.Errorf("delete of the exec: %w", err)
	}
	took := since(began)
	if exit.ExitStatus != 0 {
		return 0, fmt.Errorf("the exec has exit status %d", exit.ExitStatus)
	}
	return took, nil
}

// process is the container's own, with another command.
func (s *site) process(ctx context.Context, id string, args ...string) (*anypb.Any, error) {
	record, err := s.client.ContainerService().Get(s.client.Context(ctx), id)
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := typeurl.UnmarshalTo(record.Spec, &spec); err != nil {
		return nil, err
	}
	spec.Process.Args = args
	return typeurl.MarshalAnyToProto(spec.Process)
}

// try asks the shim to run its preStop handler, as `lifecyclectl run` does: the answer comes at the handler's end.
func (r *resident) try(ctx context.Context) (float64, error) {
	began := time.Now()
	response, err := lifecyclev1.NewLifecycleClient(r.shim).Run(ctx, &lifecyclev1.RunRequest{Id: r.ID, Handler: "preStop"})
	took := since(began)
	if err == nil && response.GetRun().GetResult() != "Succeeded" {
		err = fmt.Errorf("%s: %s", response.GetRun().GetResult(), response.GetRun().GetError())
	}
	if err != nil {
		return 0, fmt.Errorf("lifecycle Run: %w", err)
	}
	return took, nil
}

// dialShim connects to the shim of a bundle.
func dialShim(bundle string) (*ttrpc.Client, error) {
	address, err := os.ReadFile(filepath.Join(bundle, "address"))
	if err != nil {
		return nil, fmt.Errorf("address of the shim: %w", err)
	}
	conn, err := dialUnix(strings.TrimPrefix(strings.TrimSpace(string(address)), "unix://"))
	if err != nil {
		return nil, fmt.Errorf("connection to the shim: %w", err)
	}
	return ttrpc.NewClient(conn), nil
}

// runOnce is what a user types to run something once, from the fork of ctr to its end.
func (s *site) runOnce(ctx context.Context, runtime string) (float64, error) {
	id := s.nextID("r")
	return s.timed(s.ctrRun(ctx, runtime, id))
}

// ctrRun gives runc no separate root: ctr could do that for the stock runtime only.
func (s *site) ctrRun(ctx context.Context, runtime, id string) *exec.Cmd {
	return s.command(ctx, "ctr", "-a", s.daemon.Address, "-n", name, "run", "--rm", "--rootfs", "--read-only",
		"--cgroup", "/"+name+"/"+id, "--runtime", runtime, s.rootfs, id, noop)
}
