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
		depth = 6
	}
	for name, config := range configs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			explorer := explorer{t: t, seen: map[key]int{}}
			if config.PreStart != nil || config.OnExit != nil {
				explorer.explore(newModel(config), nil, depth-1) // there is more to try at each step
			} else {
				explorer.explore(newModel(config), nil, depth)
			}
			if explorer.steps == 0 {
				t.Fatal("nothing was explored")
			}
		})
	}
}

type explorer struct {
	t     *testing.T
	seen  map[key]int // the depth that was left when it was met
	steps int
}

func (x *explorer) explore(w *model, path []string, depth int) {
	if x.t.Failed() {
		return
	}
	rest := w.clone()
	rest.onlyTime()
	x.check(rest, append(path, "(only time passes)"))
	if depth == 0 || x.seen[w.key()] >= depth {
		return
	}
	x.seen[w.key()] = depth
	for _, action := range w.actions() {
		next := w.clone()
		action.do(next)
		x.steps++
		here := append(path[:len(path):len(path)], action.name)
		x.check(next, here)
		x.explore(next, here, depth-1)
	}
}

func (x *explorer) check(w *model, path []string) {
	if w.broken != "" && !x.t.Failed() {
		x.t.Errorf("%s\n  after: %s", w.broken, strings.Join(path, ", "))
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
