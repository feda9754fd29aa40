package lifecycle

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// configs are all combinations of what decides differently.
func configs() map[string]Config {
	all := map[string]Config{}
	for _, cri := range []bool{false, true} {
		for _, preStart := range []string{"", "Fail", "Ignore"} {
			for _, postStart := range []string{"", "Fail", "Ignore"} {
				for _, preStop := range []string{"", "preStop", "preStop with a limit"} {
					for _, onExit := range []bool{false, true} {
						for _, grace := range []time.Duration{0, 5 * time.Second} {
							name := fmt.Sprintf("cri=%t preStart=%s postStart=%s preStop=%s onExit=%t grace=%s", cri, preStart, postStart, preStop, onExit, grace)
							all[name] = withOuterHandlers(newTestConfig(cri, postStart, preStop, grace), preStart, onExit)
						}
					}
				}
			}
		}
	}
	return all
}

// depthOf is how many steps are explored. With preStart or onExit there is more to
// try at each step, so the depth is less, and less again if the rest is not the most
// usual.
func depthOf(config Config) int {
	plain := config.PreStart == nil && config.OnExit == nil
	usual := config.PreStop != nil && config.PreStop.Timeout == 0 && config.GracePeriod == 0 && (config.PostStart == nil || !config.PostStart.IgnoreFailure)
	switch {
	case testing.Short() && !plain && !usual:
		return 3
	case testing.Short():
		return 5
	case plain:
		return 8
	case usual:
		return 7
	default:
		return 5
	}
}

// withOuterHandlers adds the handlers that run before the entrypoint and after the exit.
func withOuterHandlers(config Config, preStart string, onExit bool) Config {
	if preStart != "" {
		config.PreStart = &Handler{IgnoreFailure: preStart == "Ignore"}
	}
	if onExit {
		config.OnExit = &Handler{Timeout: 20 * time.Second}
	}
	return config
}

func newTestConfig(cri bool, postStart, preStop string, grace time.Duration) Config {
	config := Config{CRI: cri, GracePeriod: grace, DefaultPostStartTimeout: 2 * time.Minute, DefaultGracePeriod: 10 * time.Second}
	if postStart != "" {
		config.PostStart = &Handler{IgnoreFailure: postStart == "Ignore"}
	}
	switch preStop {
	case "preStop":
		config.PreStop = &Handler{}
	case "preStop with a limit":
		config.PreStop = &Handler{Timeout: time.Second}
	}
	return config
}

// TestPromisesOnAllPaths tries everything that can happen, in every order, up to a
// depth, and lets only time pass after each step. See docs/spec.md#promises.
func TestPromisesOnAllPaths(t *testing.T) {
	parent := t
	for name, config := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			explorer := explorer{t: t, parent: parent}
			explorer.explore(newModel(config), depthOf(config))
			if explorer.steps == 0 {
				t.Fatal("nothing was explored")
			}
		})
	}
}

type explorer struct {
	t, parent *testing.T
	steps     int
}

// reached is a world, and the action that led there from another one.
type reached struct {
	world  *model
	action string
	from   *reached // nil at the start
}

func (r *reached) path() []string {
	if r.from == nil {
		return nil
	}
	return append(r.from.path(), r.action)
}

// explore goes from the worlds after some steps to those after one more. A world that
// was met before had at least as many steps left then, so it is not tried again.
func (x *explorer) explore(start *model, depth int) {
	seen := map[key]bool{start.key(): true}
	worlds := []*reached{{world: start}}
	for ; len(worlds) > 0 && !x.parent.Failed(); depth-- { // one broken promise is enough
		var next []*reached
		for _, at := range worlds {
			rest := &reached{world: at.world.clone(), action: "(only time passes)", from: at}
			rest.world.onlyTime()
			x.check(rest)
			if depth == 0 {
				continue
			}
			for _, action := range at.world.actions() {
				to := &reached{world: at.world.clone(), action: action.name, from: at}
				action.do(to.world)
				x.steps++
				x.check(to)
				if k := to.world.key(); !seen[k] {
					seen[k] = true
					next = append(next, to)
				}
			}
			at.world = nil // only its path is needed from now on
		}
		worlds = next
	}
}

func (x *explorer) check(to *reached) {
	if to.world.broken != "" && !x.t.Failed() {
		x.t.Errorf("%s\n  after: %s", to.world.broken, strings.Join(to.path(), ", "))
	}
}

// FuzzPaths walks along some paths that are longer.
func FuzzPaths(f *testing.F) {
	f.Add([]byte{0}, uint8(0))
	f.Add([]byte{1, 7, 8, 1, 9, 3, 2, 11, 5}, uint8(13))
	names, all := sortedConfigs()
	f.Fuzz(func(t *testing.T, choices []byte, config uint8) {
		name := names[int(config)%len(names)]
		w := newModel(all[name])
		var path []string
		for _, choice := range choices[:min(len(choices), 64)] {
			actions := w.actions()
			if len(actions) == 0 {
				break
			}
			action := actions[int(choice)%len(actions)]
			action.do(w)
			path = append(path, action.name)
		}
		w.onlyTime()
		if w.broken != "" {
			t.Errorf("%s: %s\n  after: %s", name, w.broken, strings.Join(path, ", "))
		}
	})
}
