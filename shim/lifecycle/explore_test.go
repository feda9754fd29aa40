package lifecycle

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// configs are the combinations that decide differently.
func configs() map[string]Config {
	all := map[string]Config{}
	for _, cri := range []bool{false, true} {
		for _, postStart := range []string{"", "Fail", "Ignore"} {
			for _, preStop := range []string{"", "preStop", "preStop with a limit"} {
				for _, grace := range []time.Duration{0, 5 * time.Second} {
					name := fmt.Sprintf("cri=%t postStart=%s preStop=%s grace=%s", cri, postStart, preStop, grace)
					all[name] = newTestConfig(cri, postStart, preStop, grace)
				}
			}
		}
	}
	for _, cri := range []bool{false, true} {
		for _, preStart := range []string{"", "Fail", "Ignore"} {
			for _, onExit := range []bool{false, true} {
				for _, postStart := range []string{"", "Fail"} {
					if preStart == "" && !onExit {
						continue // above
					}
					name := fmt.Sprintf("cri=%t preStart=%s onExit=%t postStart=%s", cri, preStart, onExit, postStart)
					all[name] = withOuterHandlers(newTestConfig(cri, postStart, "preStop", 0), preStart, onExit)
				}
			}
		}
	}
	return all
}

// withOuterHandlers adds those that run before the entrypoint and after the end.
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

// TestPromisesOnAllPaths tries everything that can happen, in every order, up to
// a depth, and lets only time pass after each of it.
func TestPromisesOnAllPaths(t *testing.T) {
	depth := 8
	if testing.Short() {
		depth = 5
	}
	parent := t
	for name, config := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			explorer := explorer{t: t, parent: parent}
			if config.PreStart != nil || config.OnExit != nil {
				explorer.explore(newModel(config), depth-1) // there is more to try at each step
			} else {
				explorer.explore(newModel(config), depth)
			}
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

// reached is a world, and how it was come to: by what action, from where.
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

// explore goes from the worlds that so many steps come to, to those of one more: a world
// that has been met was met with no fewer steps left, and need not be tried again.
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
			at.world = nil // only its path is asked for from now on
		}
		worlds = next
	}
}

func (x *explorer) check(to *reached) {
	if to.world.broken != "" && !x.t.Failed() {
		x.t.Errorf("%s\n  after: %s", to.world.broken, strings.Join(to.path(), ", "))
	}
}

// FuzzPaths walks longer paths than can all be tried.
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
