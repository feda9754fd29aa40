package main

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	"github.com/lifecycle-shim/lifecycle-shim/integration/lab/bench/report"
)

// pace is the rest before each step of a paced scene. The first write to a v1 cgroup after some rest costs the kernel 5 to 21 ms:
// a handler in real life comes after rest.
const pace = 200 * time.Millisecond

// plan is how a scene is measured.
type plan struct {
	name, title string
	measure     func(ctx context.Context, s *site, p plan, scene *report.Scene) error

	rounds, warmUp int // rounds that count, and those before them that do not
	pause          time.Duration
	loaded         bool
	containers     circumstances
	pods           int // of each shim, where memory is measured
}

// plans are in the order in which they are measured.
func plans(rounds int, quick bool) []plan {
	part := func(of int) int { return max(rounds/of, 2) }
	profile := circumstances{seccomp: true}
	const (
		paced     = "idle machine, 200 ms of rest before each step"
		burst     = "idle machine, one step after the other"
		load      = "a busy process for each CPU, 200 ms of rest before each step"
		throttled = "containers limited to 5 % of a CPU, with a busy init; nsenter runs outside of that limit"
		filter    = "; docker's default seccomp profile"
	)
	all := []plan{
		{name: report.SceneRun, title: "a container without handlers, from ctr's start to its end, 200 ms of rest before each", measure: measureRuns, rounds: 2 * rounds, warmUp: 2, pause: pace},
		{name: report.ScenePaced, title: paced, measure: measureLives, rounds: rounds, warmUp: 2, pause: pace},
		{name: report.ScenePaced + report.Seccomp, title: paced + filter, measure: measureLives, rounds: rounds, warmUp: 2, pause: pace, containers: profile},
		{name: report.SceneBurst, title: burst, measure: measureLives, rounds: part(2), warmUp: 2},
		{name: report.SceneBurst + report.Seccomp, title: burst + filter, measure: measureLives, rounds: part(2), warmUp: 2, containers: profile},
		{name: report.SceneLoad, title: load, measure: measureLives, rounds: part(3), warmUp: 1, pause: pace, loaded: true},
		{name: report.SceneLoad + report.Seccomp, title: load + filter, measure: measureLives, rounds: part(3), warmUp: 1, pause: pace, loaded: true, containers: profile},
		{name: report.SceneThrottled, title: throttled, measure: measureLives, rounds: part(4), warmUp: 1, pause: pace, containers: circumstances{throttled: true}},
	}
	return append(append(all, memoryPlans(quick)...), drainPlan(quick))
}

// step measures something, once in each round, and returns its values by series.
type step func(context.Context) (map[string]float64, error)

// measureRounds takes the steps of each round in its own order, so that no change of the machine's load meets the same
// step each time.
func (p plan) measureRounds(ctx context.Context, s *site, scene *report.Scene, steps []step) error {
	for round := range p.warmUp + p.rounds {
		values := map[string]float64{}
		for _, i := range rand.Perm(len(steps)) {
			if err := idle(ctx, p.pause); err != nil {
				return err
			}
			some, err := steps[i](ctx)
			if err != nil {
				return err
			}
			maps.Copy(values, some)
		}
		if round < p.warmUp {
			continue
		}
		scene.Add(values)
		if done := round - p.warmUp + 1; done%5 == 0 {
			s.say("   round %d of %d", done, p.rounds)
		}
	}
	return nil
}

func measureRuns(ctx context.Context, s *site, p plan, scene *report.Scene) error {
	run := func(series, runtime string) step {
		return func(ctx context.Context) (map[string]float64, error) {
			took, err := s.runOnce(ctx, runtime)
			return map[string]float64{series: took}, err
		}
	}
	return p.measureRounds(ctx, s, scene, []step{run(report.RunOurs, oursRuntime), run(report.RunStock, harness.StockRuntime)})
}

func measureLives(ctx context.Context, s *site, p plan, scene *report.Scene) (err error) {
	residents, err := s.settle(ctx, p.containers)
	if err != nil {
		return err
	}
	// With its own time: what has been interrupted is to be removed too.
	defer func() { err = errors.Join(err, residents.leave(context.WithoutCancel(ctx))) }()
	if p.loaded {
		load, err := startLoad()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, load.end()) }()
	}
	var steps []step
	for _, l := range []life{lifeNone, lifeWith, lifeStock} {
		steps = append(steps, func(ctx context.Context) (map[string]float64, error) { return s.live(ctx, l, p.containers, p.pause) })
	}
	for _, w := range ways {
		steps = append(steps, func(ctx context.Context) (map[string]float64, error) {
			took, err := w.run(ctx, residents)
			return map[string]float64{w.name: took}, err
		})
	}
	return p.measureRounds(ctx, s, scene, steps)
}
