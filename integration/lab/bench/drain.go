package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/lab/bench/report"
)

// drainSeconds is how long each preStop handler takes.
const drainSeconds = 5

// drainHandlers leave the preStop handler all the time that a busy machine needs.
var drainHandlers = map[string]string{
	"lifecycle-shim.io/lifecycle": fmt.Sprintf(`{"preStop": {"exec": {"command": ["/bin/sleep", "%d"]}}, "terminationGracePeriodSeconds": 3600}`, drainSeconds),
}

func drainPlan(quick bool) plan {
	pods := 200
	if quick {
		pods = 20
	}
	return plan{
		name: report.SceneDrain, measure: measureDrain, pods: pods,
		title: fmt.Sprintf("%d pods are stopped at once, each with a preStop handler of %d s; from the first Kill to the last exit", pods, drainSeconds),
	}
}

// measureDrain stops all of a node's containers at once, as a drain does.
func measureDrain(ctx context.Context, s *site, p plan, scene *report.Scene) (err error) {
	containers := make([]*harness.Container, 0, p.pods)
	defer func() {
		for _, c := range containers {
			err = errors.Join(err, c.Remove(context.WithoutCancel(ctx)))
		}
	}()
	for range p.pods {
		c, err := s.container(ctx, s.client, oursRuntime, circumstances{}, nil, drainHandlers)
		if err != nil {
			return err
		}
		containers = append(containers, c)
		if _, _, err := c.Run(ctx); err != nil {
			return err
		}
	}
	for _, c := range containers {
		if err := awaitReady(ctx, c); err != nil {
			return err
		}
	}
	if err := idle(ctx, settled); err != nil {
		return err
	}
	began := time.Now()
	stopped := make(chan error, len(containers))
	for _, c := range containers {
		go func() {
			took, err := stop(ctx, c)
			if err == nil && took < drainSeconds*1000 {
				err = fmt.Errorf("container %s has stopped after %.0f ms, before its preStop handler can have ended", c.ID, took)
			}
			stopped <- err
		}()
	}
	for range containers {
		err = errors.Join(err, <-stopped)
	}
	scene.Add(map[string]float64{report.DrainSeconds: time.Since(began).Seconds(), report.DrainPreStop: drainSeconds})
	return err
}
