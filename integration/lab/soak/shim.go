package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// ShimResult is the result of one pod and its shim. Times are in seconds.
type ShimResult struct {
	// StartSeconds and StopSeconds are how long it took to start, and to stop, all containers of the pod at once.
	StartSeconds float64 `json:"startSeconds"`
	StopSeconds  float64 `json:"stopSeconds"`
	// Handlers that the shim has run, Trials of them by an operator, and Containers that it has served.
	Handlers   int     `json:"handlers"`
	Trials     int     `json:"trials"`
	Containers int     `json:"containers"`
	Seconds    float64 `json:"seconds"`
	// Samples of what it uses, after each batch.
	Samples []Sample `json:"samples"`
}

// batches is into how many parts its handlers are divided, a sample after each.
const batches = 50

// atOnce is how many trials or containers of a batch are under way at a time.
const atOnce = 10

// pod is the pod under test, with a connection to its shim.
type pod struct {
	*run
	*harness.Pod
	process harness.Process
	shim    lifecyclev1.LifecycleService
	// stay are the containers that are there all the time.
	stay []*harness.PodContainer
	// names of containers that come and go, those that no container has now.
	names  chan string
	served atomic.Int64
	trials atomic.Int64
}

// shim runs a pod, and its handlers batch by batch.
func (r *run) shim(ctx context.Context) (result ShimResult, err error) {
	began := time.Now()
	defer func() { result.Seconds = seconds(time.Since(began)) }()
	p, closePod, err := r.newPod(ctx)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, closePod(context.WithoutCancel(ctx))) }()
	starting := time.Now()
	if err := p.startAll(ctx); err != nil {
		return result, err
	}
	result.StartSeconds = seconds(time.Since(starting))
	r.progress("a pod with %d containers", r.config.Pod)
	for done := 0; done < r.config.Handlers; {
		if err := p.batch(ctx, max(r.config.Handlers/batches, 2*atOnce)); err != nil {
			return result, err
		}
		sample, err := p.sample(ctx)
		if err != nil {
			return result, err
		}
		result.Samples = append(result.Samples, sample)
		done = sample.Handlers
		if len(result.Samples)%5 == 0 {
			r.progress("%s", sample)
		}
	}
	r.progress("stopping them")
	stopping := time.Now()
	if err := each(ctx, p.stay, len(p.stay), p.stop); err != nil {
		return result, err
	}
	result.StopSeconds = seconds(time.Since(stopping))
	last, err := p.ask(ctx)
	if err != nil {
		return result, err
	}
	result.Handlers, result.Trials, result.Containers = int(last.Shim.Handlers), int(p.trials.Load()), int(p.served.Load())
	return result, errors.Join(p.complete(result, last), flat(result.Samples))
}

// stopBound of all containers of the pod at once, which took 80 s while the runc service's exits waited for runc, and
// that for them (noteExit in package shim); 1 s is usual.
const stopBound = 30 * time.Second

// complete reports whether each handler has run once: two for each container that was served, and the trials.
func (p *pod) complete(result ShimResult, last *lifecyclev1.StatusResponse) error {
	if result.StopSeconds > stopBound.Seconds() {
		return fmt.Errorf("%d containers of one pod took %.0f s to stop, and %s are allowed", len(p.stay), result.StopSeconds, stopBound)
	}
	if want := 2*result.Containers + result.Trials; result.Handlers != want {
		return fmt.Errorf("the shim has run %d handlers, want %d: two of each of %d containers, and %d trials", result.Handlers, want, result.Containers, result.Trials)
	}
	if n := len(last.Containers); n != 0 {
		return fmt.Errorf("the shim still knows %d containers, and all have been removed", n)
	}
	return nil
}

// newPod runs a pod without containers.
func (r *run) newPod(ctx context.Context) (_ *pod, closePod func(context.Context) error, err error) {
	p := &pod{run: r, names: make(chan string, atOnce)}
	p.Pod, err = r.cri.RunPod(ctx, harness.PodConfig{
		Name: "soak", Handler: handlerName, CgroupParent: r.cgroupParent(), HostNetwork: true, Annotations: r.podAnnotations(),
	})
	if err != nil {
		return nil, nil, fmt.Errorf("run a pod: %w", err)
	}
	remove := func(ctx context.Context) error {
		_, err := p.Stop(ctx)
		return errors.Join(err, p.Remove(ctx))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(context.WithoutCancel(ctx)))
		}
	}()
	shims, err := r.daemon.Shims()
	if err != nil || len(shims) != 1 {
		return nil, nil, fmt.Errorf("there are %d shims, and one pod (%w)", len(shims), err)
	}
	p.process = shims[0]
	for i := range atOnce {
		p.names <- passing(i)
	}
	address, err := r.daemon.ShimAddress(r.cri.Client().Namespace, p.ID)
	if err != nil {
		return nil, nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", address)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the shim: %w", err)
	}
	client := ttrpc.NewClient(conn)
	p.shim = lifecyclev1.NewLifecycleClient(client)
	return p, func(ctx context.Context) error { return errors.Join(client.Close(), remove(ctx)) }, nil
}

// staying and passing are names of containers.
func staying(i int) string { return fmt.Sprintf("stays%d", i) }
func passing(i int) string { return fmt.Sprintf("passes%d", i) }

// podAnnotations has a block for each name: CRI hands a shim annotations of pods only. Each postStart sees to it that
// the container can be stopped; preStops go through all kinds.
func (r *run) podAnnotations() map[string]string {
	blocks := map[string]string{}
	add := func(name string, i int) {
		blocks[name+".lifecycle-shim.io/lifecycle"] = fmt.Sprintf(
			"{postStart: {exec: {command: [/bin/sh, -c, 'until [ -e /tmp/ready ]; do sleep 0.01; done']}}, preStop: {%s}}", r.handler(kinds[i%len(kinds)]))
	}
	for i := range r.config.Pod {
		add(staying(i), i)
	}
	for i := range atOnce {
		add(passing(i), i)
	}
	return blocks
}

// startAll starts the containers that stay, all at once.
func (p *pod) startAll(ctx context.Context) error {
	p.stay = make([]*harness.PodContainer, p.config.Pod)
	numbers := make([]int, p.config.Pod)
	for i := range numbers {
		numbers[i] = i
	}
	return each(ctx, numbers, len(numbers), func(ctx context.Context, i int) (err error) {
		p.stay[i], err = p.start(ctx, staying(i))
		return err
	})
}

func (p *pod) start(ctx context.Context, name string) (*harness.PodContainer, error) {
	c, err := p.Create(ctx, harness.PodContainerConfig{Name: name, Args: process})
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", name, err)
	}
	if _, err := c.Start(ctx); err != nil {
		return nil, fmt.Errorf("start container %s: %w", name, err)
	}
	return c, nil
}

// pass lets a container come and go.
func (p *pod) pass(ctx context.Context) error {
	name := <-p.names // there are as many as are under way
	defer func() { p.names <- name }()
	c, err := p.start(ctx, name)
	if err != nil {
		return err
	}
	return p.stop(ctx, c)
}

// stopLimit is the grace period: far above what a loaded machine needs.
const stopLimit = 5 * time.Minute

// stop a container and remove it.
func (p *pod) stop(ctx context.Context, c *harness.PodContainer) error {
	if _, err := c.Stop(ctx, stopLimit); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	status, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if status.ExitCode != exitStatus {
		return fmt.Errorf("exit status %d, want %d", status.ExitCode, exitStatus)
	}
	p.served.Add(1)
	return c.Remove(ctx)
}

// batch runs so many handlers: a fifth of them belong to containers that come and go, the others are trials in those
// that stay.
func (p *pod) batch(ctx context.Context, handlers int) error {
	containers := make([]struct{}, handlers/10)
	if err := each(ctx, containers, atOnce, func(ctx context.Context, _ struct{}) error { return p.pass(ctx) }); err != nil {
		return err
	}
	// Of one container one at a time: the shim refuses a second one.
	rounds := make(chan string, handlers)
	for i := range handlers - 2*len(containers) {
		rounds <- []string{"postStart", "preStop"}[i%2]
	}
	close(rounds)
	return each(ctx, p.stay, atOnce, func(ctx context.Context, c *harness.PodContainer) error {
		for range handlers/len(p.stay) + 1 {
			if kind, ok := <-rounds; ok {
				if err := p.try(ctx, c, kind); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// try a handler, as `lifecyclectl run` does.
func (p *pod) try(ctx context.Context, c *harness.PodContainer, kind string) error {
	response, err := p.shim.Run(ctx, &lifecyclev1.RunRequest{Id: c.ID, Handler: kind})
	if err != nil {
		return fmt.Errorf("try %s: %w", kind, err)
	}
	if response.Run.Result != "Succeeded" {
		return fmt.Errorf("%s %s on trial: %s %s", kind, response.Run.Type, response.Run.Result, response.Run.Error)
	}
	p.trials.Add(1)
	return nil
}

func (p *pod) ask(ctx context.Context) (*lifecyclev1.StatusResponse, error) {
	response, err := p.shim.Status(ctx, &lifecyclev1.StatusRequest{Collect: true})
	if err == nil && response.Shim == nil {
		err = errors.New("it reports nothing about itself")
	}
	if err != nil {
		return nil, fmt.Errorf("ask the shim: %w", err)
	}
	return response, nil
}

const (
	// quietLimit bounds the wait for what is on its way out: connections that were closed, threads that end.
	quietLimit = 5 * time.Second
	// quietLooks must be alike.
	quietLooks = 5
)

// sample what the shim uses when it is quiet. One that does not become so is judged by what it uses then.
func (p *pod) sample(ctx context.Context) (Sample, error) {
	var (
		told *lifecyclev1.Process
		same int
	)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var failed error
	_ = harness.Poll(ctx, quietLimit, "the shim to be quiet", func() (bool, error) {
		response, err := p.ask(ctx)
		if err != nil {
			failed = err
			return false, err
		}
		now := response.Shim
		if same++; told == nil || now.Goroutines != told.Goroutines || now.Threads != told.Threads || now.Descriptors != told.Descriptors {
			same = 1
		}
		told = now
		return same == quietLooks, nil
	})
	if failed != nil {
		return Sample{}, failed
	}
	if told == nil {
		return Sample{}, ctx.Err()
	}
	memory, err := p.process.Memory()
	return Sample{
		Handlers: int(told.Handlers), Goroutines: int(told.Goroutines), Threads: int(told.Threads), Descriptors: int(told.Descriptors),
		HeapKB: int(told.HeapBytes >> 10), PSSKB: int(memory.PSS >> 10), AnonymousKB: int(memory.Anonymous >> 10),
	}, err
}

// each calls do with all of them, so many at a time. The first error ends it.
func each[T any](ctx context.Context, all []T, parallel int, do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		next    atomic.Int64
		workers sync.WaitGroup
	)
	for range min(parallel, len(all)) {
		workers.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(all) {
					return
				}
				if err := do(ctx, all[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}
