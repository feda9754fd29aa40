package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// ContainersResult is the result of the containers. Times are in seconds.
type ContainersResult struct {
	Done    int     `json:"done"`
	Seconds float64 `json:"seconds"`
	// FirstTenth and LastTenth are how long the first and the last tenth of the containers took, from a container's
	// first request to its last, in the middle.
	FirstTenth float64 `json:"firstTenthSeconds"`
	LastTenth  float64 `json:"lastTenthSeconds"`
	// Handlers that succeeded, as the events tell.
	Handlers int `json:"handlers"`
	// Containerd before and after.
	Before Usage `json:"containerdBefore"`
	After  Usage `json:"containerdAfter"`
}

// namespace of the containers of this pass.
const namespace = "soak"

// lifeLimit bounds the life of one container: far above what a loaded machine needs.
const lifeLimit = 10 * time.Minute

func (r *run) containers(ctx context.Context) (ContainersResult, error) {
	result := ContainersResult{}
	client, err := r.daemon.Client(namespace)
	if err != nil {
		return result, err
	}
	rootFS := filepath.Join(r.daemon.Dir, "rootfs")
	if err := harness.NewRootFS(rootFS); err != nil {
		return result, err
	}
	defer os.RemoveAll(rootFS)
	events, err := client.Events(ctx)
	if err != nil {
		return result, err
	}
	defer events.Close()
	if result.Before, err = usageOf(r.daemon.Pid()); err != nil {
		return result, err
	}
	began := time.Now()
	lives, err := r.inParallel(ctx, func(ctx context.Context, number int) error { return r.life(ctx, client, rootFS, number) })
	result.Done, result.Seconds = len(lives), seconds(time.Since(began))
	result.FirstTenth, result.LastTenth = ends(lives)
	if err != nil {
		return result, err
	}
	wrong := await(ctx, events, len(lives))
	result.Handlers = succeeded(events)
	if result.After, err = usageOf(r.daemon.Pid()); err != nil {
		return result, err
	}
	return result, wrong
}

// inParallel calls life with the numbers of all containers, config.Parallel at a time, and returns how long each took,
// in the order of their ends. The first error ends it.
func (r *run) inParallel(ctx context.Context, life func(context.Context, int) error) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		next  atomic.Int64
		mu    sync.Mutex
		lives []time.Duration
		all   sync.WaitGroup
	)
	for range r.config.Parallel {
		all.Go(func() {
			for ctx.Err() == nil {
				number := int(next.Add(1)) - 1
				if number >= r.config.Containers {
					return
				}
				began := time.Now()
				if err := life(ctx, number); err != nil {
					cancel(fmt.Errorf("container %d: %w", number, err))
					return
				}
				mu.Lock()
				lives = append(lives, time.Since(began))
				if done := len(lives); done%max(1, r.config.Containers/20) == 0 {
					r.progress("%d of %d containers", done, r.config.Containers)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return lives, context.Cause(ctx)
}

// ends are the medians of the first and of the last tenth, in seconds.
func ends(lives []time.Duration) (first, last float64) {
	tenth := max(1, len(lives)/10)
	if len(lives) == 0 {
		return 0, 0
	}
	inSeconds := make([]float64, len(lives))
	for i, life := range lives {
		inSeconds[i] = seconds(life)
	}
	return median(inSeconds[:tenth]), median(inSeconds[len(inSeconds)-tenth:])
}

// life of one container, from its record to its removal.
func (r *run) life(ctx context.Context, client *harness.Client, rootFS string, number int) (err error) {
	ctx, cancel := context.WithTimeout(ctx, lifeLimit)
	defer cancel()
	c, err := client.NewContainer(ctx, harness.ContainerConfig{
		ID: fmt.Sprintf("c%d", number), Args: process, Runtime: runtimeType, RootFS: rootFS, CgroupParent: r.cgroupParent(),
		Options:     &runtimeoptions.Options{ConfigBody: fmt.Appendf(nil, "Root = %q", r.daemon.RuncRoot)},
		Annotations: map[string]string{"lifecycle-shim.io/lifecycle": r.block(number)},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Remove(context.WithoutCancel(ctx))) }()
	if _, _, err := c.Run(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	err = harness.Poll(ctx, lifeLimit, "the container's process", func() (bool, error) {
		return strings.Contains(c.Output(), "ready"), nil
	})
	if err != nil {
		return err
	}
	if _, err := c.Kill(ctx, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	status, err := c.Wait(ctx)
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	if status != exitStatus {
		return fmt.Errorf("exit status %d, want %d", status, exitStatus)
	}
	if _, _, err := c.Delete(ctx); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// wanted is what the events tell of every container, but for TaskDelete, which comes at any place after TaskStart: a
// client that deletes right after Wait is faster than the publishing of the exit.
var wanted = []string{
	"/tasks/create", "/lifecycle/handler-started", "/lifecycle/handler-finished", "/tasks/start",
	"/lifecycle/handler-started", "/lifecycle/handler-finished", "/tasks/exit",
}

// eventsLimit bounds the time from the last request to the last event.
const eventsLimit = 30 * time.Second

// await the events of all containers, and compare them.
func await(ctx context.Context, events *harness.Events, containers int) error {
	var wrong error
	err := harness.Poll(ctx, eventsLimit, "the events of all containers", func() (bool, error) {
		wrong = compare(events.All(), containers)
		return wrong == nil, nil
	})
	if err != nil {
		return errors.Join(wrong, err)
	}
	return nil
}

// compare the events with what is wanted of each container.
func compare(all []harness.Event, containers int) error {
	told, deletes := map[string][]string{}, map[string]int{}
	for _, event := range all {
		switch {
		case event.Namespace != namespace || !strings.HasPrefix(event.Topic, "/tasks/") && !strings.HasPrefix(event.Topic, "/lifecycle/"):
		case event.Topic == "/tasks/delete":
			deletes[event.ContainerID]++
		default:
			told[event.ContainerID] = append(told[event.ContainerID], event.Topic)
		}
	}
	if len(told) != containers {
		return fmt.Errorf("there are events of %d containers, and %d were run", len(told), containers)
	}
	for id, topics := range told {
		if got, want := strings.Join(topics, " "), strings.Join(wanted, " "); got != want || deletes[id] != 1 {
			return fmt.Errorf("the events of %s are %s, and %d times /tasks/delete; want %s, and once", id, got, deletes[id], want)
		}
	}
	return nil
}

// succeeded counts the handlers that did.
func succeeded(events *harness.Events) int {
	count := 0
	for _, event := range events.All() {
		if finished, ok := event.Value.(*lifecyclev1.HandlerFinished); ok && event.Namespace == namespace && finished.Result == "Succeeded" {
			count++
		}
	}
	return count
}
