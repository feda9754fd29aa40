package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// Config of a measurement.
type Config struct {
	// Bin is where the programs are.
	Bin string
	// Containers are so many at the end.
	Containers int
	// PreStop is how long each preStop handler takes. Whole seconds.
	PreStop time.Duration
	// Progress gets each step. It may be nil.
	Progress func(string)
}

// Results of a measurement.
type Results struct {
	Date    string `json:"date"`
	Commit  string `json:"commit"`
	Machine string `json:"machine"`
	// Processors of the machine.
	Processors     int     `json:"processors"`
	PreStopSeconds float64 `json:"preStopSeconds"`
	Runs           []Run   `json:"runs"`
}

// Run is one way to have many containers.
type Run struct {
	// Pod is "one", all containers in it, or "each", every container in its own.
	Pod string `json:"pod"`
	// Handler is what the preStop handlers are: exec or sleep. The postStart is always exec.
	Handler string `json:"handler"`
	Steps   []Step `json:"steps"`
	Drain   Drain  `json:"drain"`
}

// Step is what the containers between the step before and this one cost, started one after the other.
type Step struct {
	Containers int `json:"containers"`
	// StartMS is from the creation of the task to the end of its postStart, the median.
	StartMS float64 `json:"startMS"`
	// StartCPUMS is what each start has cost containerd, the shims, runc and the handlers.
	StartCPUMS float64 `json:"startCPUMS"`
	// ShimsPSSMB and ShimsPrivateMB are what all shims together have in memory now.
	ShimsPSSMB     float64 `json:"shimsPSSMB"`
	ShimsPrivateMB float64 `json:"shimsPrivateMB"`
	// ContainerdPSSMB is what containerd has.
	ContainerdPSSMB float64 `json:"containerdPSSMB"`
}

// Drain is the stop of all containers at once. Seconds are from the first request on.
type Drain struct {
	Containers int `json:"containers"`
	// RequestsAnswered is when all requests were.
	RequestsAnswered float64 `json:"requestsAnsweredSeconds"`
	// LastBegan is when the last handler had been running for no time, as events tell: its end less how long it took.
	LastBegan float64 `json:"lastBeganSeconds"`
	// LongestHandler is the longest preStop, its start by the host in it.
	LongestHandler float64 `json:"longestHandlerSeconds"`
	// LastEnded is when the last handler had, and LastExit when the last container had.
	LastEnded float64 `json:"lastEndedSeconds"`
	LastExit  float64 `json:"lastExitSeconds"`
	// Ratio of LastExit to what one handler takes.
	Ratio float64 `json:"ratio"`
	// CPUBeforeMS and CPUAfterMS are what each container has cost until the handlers run, and from then on.
	CPUBeforeMS float64 `json:"cpuBeforeMS"`
	CPUAfterMS  float64 `json:"cpuAfterMS"`
}

// runtimeType of the containers.
const runtimeType = "io.containerd.lifecycle.v2"

// limit bounds every wait.
const limit = 10 * time.Minute

// Measure measures all runs, one after the other, each under its own containerd.
func Measure(ctx context.Context, config Config) (*Results, error) {
	if config.Progress == nil {
		config.Progress = func(string) {}
	}
	results := &Results{Machine: harness.Machine(), Processors: runtime.NumCPU(), PreStopSeconds: config.PreStop.Seconds()}
	for _, pod := range []string{"one", "each"} {
		for _, handler := range []string{"exec", "sleep"} {
			run := Run{Pod: pod, Handler: handler}
			if err := run.measure(ctx, config); err != nil {
				return nil, fmt.Errorf("%d containers, %s pod, preStop %s: %w", config.Containers, pod, handler, err)
			}
			results.Runs = append(results.Runs, run)
		}
	}
	return results, nil
}

// node is a containerd, and what runs under it.
type node struct {
	config     Config
	run        *Run
	daemon     *harness.Daemon
	client     *harness.Client
	events     *harness.Events
	rootFS     string
	containers []*harness.Container
}

func (r *Run) measure(ctx context.Context, config Config) (err error) {
	n := &node{config: config, run: r}
	if err := n.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	for _, count := range steps(config.Containers) {
		step, err := n.growTo(ctx, count)
		if err != nil {
			return err
		}
		r.Steps = append(r.Steps, step)
		config.Progress(fmt.Sprintf("pod: %s, preStop: %s: %d containers, %.0f ms for each start", r.Pod, r.Handler, count, step.StartMS))
	}
	if r.Drain, err = n.drain(ctx); err != nil {
		return err
	}
	config.Progress(fmt.Sprintf("pod: %s, preStop: %s: stopped after %.2f s", r.Pod, r.Handler, r.Drain.LastExit))
	return n.remove(ctx)
}

// steps at which is looked: 1, and then by tenths.
func steps(containers int) []int {
	found := []int{1}
	for tenth := 1; tenth <= 10; tenth++ {
		if count := containers * tenth / 10; count > found[len(found)-1] {
			found = append(found, count)
		}
	}
	return found
}

func (n *node) start(ctx context.Context) error {
	bin, err := filepath.Abs(n.config.Bin)
	if err != nil {
		return err
	}
	servers := harness.Servers(bin)
	if len(servers) == 0 {
		return fmt.Errorf("there is no containerd in %s: run `make build servers` first", bin)
	}
	if n.daemon, err = harness.StartDaemon(ctx, harness.DaemonConfig{Server: servers[0], BinDir: bin}); err != nil {
		return err
	}
	n.rootFS = filepath.Join(n.daemon.Dir, "rootfs")
	err = harness.NewRootFS(n.rootFS)
	if err == nil {
		n.client, err = n.daemon.Client("growth")
	}
	if err == nil {
		n.events, err = n.client.Events(ctx)
	}
	if err != nil {
		return errors.Join(err, n.daemon.Close())
	}
	return nil
}

func (n *node) close() error {
	n.events.Close()
	err := n.daemon.Close()
	harness.RemoveCgroupTree(n.cgroupParent())
	return err
}

func (n *node) cgroupParent() string { return "/" + filepath.Base(n.daemon.Dir) }

// growTo starts containers, one after the other, until there are so many.
func (n *node) growTo(ctx context.Context, count int) (Step, error) {
	before, err := n.cpu()
	if err != nil {
		return Step{}, err
	}
	started := count - len(n.containers)
	var times []float64
	for len(n.containers) < count {
		took, err := n.add(ctx)
		if err != nil {
			return Step{}, fmt.Errorf("container %d: %w", len(n.containers), err)
		}
		times = append(times, 1000*took.Seconds())
	}
	after, err := n.cpu()
	if err != nil {
		return Step{}, err
	}
	slices.Sort(times)
	step := Step{Containers: count, StartMS: times[len(times)/2], StartCPUMS: 1000 * (after - before).Seconds() / float64(started)}
	return step, n.weigh(&step)
}

// add starts a container that is ready to be stopped.
func (n *node) add(ctx context.Context) (took time.Duration, err error) {
	seconds := int(n.config.PreStop.Seconds())
	preStop := fmt.Sprintf("sleep: {seconds: %d}", seconds)
	if n.run.Handler == "exec" {
		preStop = fmt.Sprintf("exec: {command: [/bin/sleep, '%d']}", seconds)
	}
	annotations := map[string]string{
		// The grace period is far above what a drain takes: what is too slow is to be seen in the times.
		"lifecycle-shim.io/lifecycle": fmt.Sprintf("{postStart: {exec: {command: [/bin/true]}}, preStop: {%s}, terminationGracePeriodSeconds: 600}", preStop),
	}
	if n.run.Pod == "one" {
		annotations["io.containerd.runc.v2.group"] = "pod"
	}
	c, err := n.client.NewContainer(ctx, harness.ContainerConfig{
		ID: fmt.Sprintf("c%d", len(n.containers)), Runtime: runtimeType, RootFS: n.rootFS, CgroupParent: n.cgroupParent(), Annotations: annotations,
		Args:    []string{"/bin/sh", "-c", "trap 'exit 7' TERM; echo ready; sleep 100000 & while :; do wait; done"},
		Options: &runtimeoptions.Options{ConfigBody: fmt.Appendf(nil, "Root = %q", n.daemon.RuncRoot)},
	})
	if err != nil {
		return 0, err
	}
	n.containers = append(n.containers, c)
	began := time.Now()
	if _, _, err := c.Run(ctx); err != nil {
		return 0, err
	}
	took = time.Since(began)
	return took, harness.Poll(ctx, limit, "the container's process", func() (bool, error) { return strings.Contains(c.Output(), "ready"), nil })
}

// cpu is how long containerd and the shims have worked, and all that they have started: what has ended is in the time of
// whom it was waited for by, and what runs, such as the containers, which were runc in the beginning, has its own.
func (n *node) cpu() (total time.Duration, err error) {
	processes, err := n.daemon.Processes()
	if err != nil {
		return 0, err
	}
	for _, p := range processes {
		used, err := p.CPU()
		if err != nil && !errors.Is(err, os.ErrNotExist) { // else it has ended meanwhile
			return 0, err
		}
		total += used
	}
	return total, nil
}

// weigh containerd and the shims.
func (n *node) weigh(step *Step) error {
	daemon, err := harness.ProcessByID(n.daemon.Pid())
	if err != nil {
		return err
	}
	memory, err := daemon.Memory()
	if err != nil {
		return err
	}
	step.ContainerdPSSMB = float64(memory.PSS) / 1e6
	shims, err := n.daemon.Shims()
	if err != nil {
		return err
	}
	for _, p := range shims {
		memory, err := p.Memory()
		if err != nil {
			return err
		}
		step.ShimsPSSMB += float64(memory.PSS) / 1e6
		step.ShimsPrivateMB += float64(memory.Private) / 1e6
	}
	return nil
}

// drain stops all containers at once, through the one containerd.
func (n *node) drain(ctx context.Context) (Drain, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	d := Drain{Containers: len(n.containers)}
	before, err := n.cpu()
	if err != nil {
		return d, err
	}
	var (
		answered, ended sync.WaitGroup
		mu              sync.Mutex
		errs            []error
	)
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	}
	began := time.Now()
	for _, c := range n.containers {
		answered.Add(1)
		ended.Go(func() {
			_, err := c.Kill(ctx, syscall.SIGTERM)
			answered.Done()
			note(err)
			status, err := c.Wait(ctx)
			if err == nil && status != 7 {
				err = fmt.Errorf("container %s: exit status %d, want 7", c.ID, status)
			}
			note(err)
		})
	}
	answered.Wait()
	d.RequestsAnswered = time.Since(began).Seconds()
	// Shortly before the first handlers end: what has been used by then was used to start them.
	running, err := after(ctx, began.Add(n.config.PreStop*9/10), n.cpu)
	note(err)
	ended.Wait()
	d.LastExit = time.Since(began).Seconds()
	note(n.handlers(ctx, began, &d))
	used, err := n.cpu()
	note(err)
	d.Ratio = d.LastExit / n.config.PreStop.Seconds()
	d.CPUBeforeMS = 1000 * (running - before).Seconds() / float64(d.Containers)
	d.CPUAfterMS = 1000 * (used - running).Seconds() / float64(d.Containers)
	return d, errors.Join(errs...)
}

// after looks at a time, or at once where that has passed.
func after[T any](ctx context.Context, at time.Time, look func() (T, error)) (T, error) {
	select {
	case <-time.After(time.Until(at)):
	case <-ctx.Done():
	}
	return look()
}

// handlers reads from the events when the preStop handlers ran. All of them must have succeeded.
func (n *node) handlers(ctx context.Context, began time.Time, d *Drain) error {
	var finished int
	return harness.Poll(ctx, limit, "the events of all handlers", func() (bool, error) {
		finished = 0
		for _, event := range n.events.All() {
			f, ok := event.Value.(*lifecyclev1.HandlerFinished)
			if !ok || f.Handler != "preStop" {
				continue
			}
			if f.Result != "Succeeded" {
				return false, fmt.Errorf("preStop of %s: %s %s", f.ContainerId, f.Result, f.Message)
			}
			finished++
			end := event.Timestamp.Sub(began).Seconds()
			took := f.Took.AsDuration().Seconds()
			d.LastEnded = max(d.LastEnded, end)
			d.LastBegan = max(d.LastBegan, end-took)
			d.LongestHandler = max(d.LongestHandler, took)
		}
		return finished == d.Containers, nil
	})
}

func (n *node) remove(ctx context.Context) error {
	var errs []error
	for _, c := range n.containers {
		errs = append(errs, c.Remove(ctx))
	}
	return errors.Join(append(errs, os.RemoveAll(n.rootFS))...)
}
