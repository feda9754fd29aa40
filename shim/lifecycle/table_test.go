package lifecycle

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the generated table and the scenarios")

const tableFile = "../../docs/lifecycle.md"

func sortedConfigs() ([]string, map[string]Config) {
	all := configs()
	return slices.Sorted(maps.Keys(all)), all
}

// situation is a stage together with the state beside it that decides differently.
type situation struct {
	name string
	// is reports whether a machine in the stage is in this situation.
	is func(*Machine) bool
	// plain leads there in a container with postStart and preStop, outer in one
	// with all four handlers. A nil path: no such container comes there.
	plain, outer path
}

// path is a list of actions.
type path []string

func (p path) then(actions ...string) path { return slices.Concat(p, actions) }

func (s *situation) stage() string {
	stage, _, _ := strings.Cut(s.name, ",")
	return stage
}

// pathOf returns the path of a container with that configuration.
func (s *situation) pathOf(config Config) path {
	if config.PreStart != nil {
		return s.outer
	}
	return s.plain
}

// Paths, for a container with postStart and preStop, and for one with all handlers.
var (
	begin = path{}

	starting, outerStarting   = path{"Start"}, path{"Start", "handler succeeds"}
	postStart, outerPostStart = starting.then("start returns"), outerStarting.then("start returns")
	running, outerRunning     = postStart.then("handler succeeds"), outerPostStart.then("handler succeeds")
	preStop, outerPreStop     = running.then("Kill TERM"), outerRunning.then("Kill TERM")
)

func always(*Machine) bool      { return true }
func aborted(m *Machine) bool   { return m.handler.ending }
func stopWaits(m *Machine) bool { return m.stop.waits() }

// situations, in the order of a life. Of one stage, the first one that is true
// holds. TestSituations fails if the machine is in a situation without a name.
var situations = []situation{
	{"Created", always, begin, begin},
	{"PreStart", func(m *Machine) bool { return !aborted(m) }, nil, path{"Start"}},
	{"PreStart, aborted", aborted, nil, path{"Start", "time"}},
	{"Cancelled", always, nil, path{"Start", "handler fails"}},
	{
		"Starting", func(m *Machine) bool { return !m.held.exited && !m.held.passed && !stopWaits(m) },
		starting, outerStarting,
	},
	{"Starting, stop waits", stopWaits, starting.then("Kill TERM"), outerStarting.then("Kill TERM")},
	{"Starting, exited", func(m *Machine) bool { return m.held.exited }, starting.then("exit"), outerStarting.then("exit")},
	{"Starting, signal forwarded", func(m *Machine) bool { return m.held.passed }, starting.then("Kill KILL"), outerStarting.then("Kill KILL")},
	{"PostStart", func(m *Machine) bool { return !aborted(m) }, postStart, outerPostStart},
	{"PostStart, stop waits", stopWaits, postStart.then("Kill TERM"), outerPostStart.then("Kill TERM")},
	{"PostStart, aborted", aborted, postStart.then("time"), outerPostStart.then("time")},
	{"Running", always, running, outerRunning},
	{"PreStop", func(m *Machine) bool { return !aborted(m) }, preStop, outerPreStop},
	{"PreStop, aborted", aborted, preStop.then("time"), outerPreStop.then("time")},
	{"Stopping", always, preStop.then("handler succeeds"), outerPreStop.then("handler succeeds")},
	{"OnExit", func(m *Machine) bool { return m.handler == handlerSlot{kind: OnExit} }, nil, outerRunning.then("exit")},
	{"OnExit, waits for a handler", func(m *Machine) bool { return m.handler.kind != OnExit }, nil, outerPostStart.then("exit")},
	{"OnExit, aborted", aborted, nil, outerRunning.then("exit", "Kill KILL")},
	{"Exited", func(m *Machine) bool { return len(m.deletes) == 0 }, preStop.then("exit"), outerRunning.then("exit", "handler succeeds")},
	{
		"Exited, Delete waits", func(m *Machine) bool { return len(m.deletes) > 0 },
		preStop.then("exit", "Delete"), outerRunning.then("exit", "Kill KILL", "time", "Delete"),
	},
	{"Deleted", always, path{"Delete", "delete returns"}, path{"Delete", "delete returns"}},
}

// situationOf returns the name of the machine's situation.
func situationOf(m *Machine) string {
	for _, s := range situations {
		if s.stage() == m.Stage().String() && s.is(m) {
			return s.name
		}
	}
	return "none of " + m.Stage().String()
}

// columns are the events of the table. A kill is listed by its meaning.
var columns = []struct {
	name  string
	event Event
}{
	{"StartRequested", Event{Kind: StartRequested, Request: 99}},
	{"StartReturned", Event{Kind: StartReturned}},
	{"StartReturned with an error", Event{Kind: StartReturned, Err: errModel}},
	{"KillRequested, stop signal", Event{Kind: KillRequested, Request: 99, Signal: Signal{Number: sigTERM}}},
	{"KillRequested, SIGKILL", Event{Kind: KillRequested, Request: 99, Signal: Signal{Number: sigKILL}}},
	{"KillRequested, other signal", Event{Kind: KillRequested, Request: 99, Signal: Signal{Number: 1}}},
	{"DeleteRequested", Event{Kind: DeleteRequested, Request: 99}},
	{"DeleteReturned", Event{Kind: DeleteReturned}},
	{"HandlerEnded, Succeeded", Event{Kind: HandlerEnded}},
	{"HandlerEnded, Failed", Event{Kind: HandlerEnded, Result: Result{Outcome: Failed}}},
	{"HandlerEnded, container exited", Event{Kind: HandlerEnded, Result: Result{Outcome: Aborted, Cause: ContainerExit}}},
	{"ContainerExited", Event{Kind: ContainerExited}},
	{"DeadlineReached", Event{Kind: DeadlineReached}},
}

func in(t *testing.T, config Config, s *situation) *model {
	t.Helper()
	w, ok := walk(config, s.pathOf(config))
	if !ok || situationOf(&w.machine) != s.name || w.broken != "" {
		t.Fatalf("%v lead to %q, not to %q (%s)", s.pathOf(config), situationOf(&w.machine), s.name, w.broken)
	}
	return w
}

// TestSituations: every stage has a situation that is named like it, and after
// every event the machine is in a situation that has a name.
func TestSituations(t *testing.T) {
	for _, name := range stageNames {
		if !slices.ContainsFunc(situations, func(s situation) bool { return s.name == name }) {
			t.Errorf("no situation is named %s", name)
		}
	}
	for _, config := range configs() {
		for _, s := range situations {
			w, ok := walk(config, s.pathOf(config))
			if !ok {
				continue
			}
			for _, action := range w.actions() {
				at := w.clone()
				action.do(at)
				if name := situationOf(&at.machine); strings.HasPrefix(name, "none") {
					t.Errorf("%s in %q leads to %s", action.name, s.name, name)
				}
			}
		}
	}
}

// row is what an event leads to. The zero row: the event is ignored.
type row struct{ to, effects, why string }

func rowOf(t *testing.T, config Config, s *situation, event Event) row {
	w := in(t, config, s)
	now := w.now
	if event.Kind == DeadlineReached {
		if w.machine.Deadline().IsZero() {
			return row{}
		}
		now = w.machine.Deadline()
	}
	effects := w.machine.Step(now, event)
	r := row{to: situationOf(&w.machine), why: w.machine.Why()}
	if r.to == s.name {
		if len(effects) == 0 {
			return row{}
		}
		r.to = ""
	}
	words := make([]string, len(effects))
	for i, effect := range effects {
		words[i] = effect.String()
	}
	r.effects = strings.Join(words, ", ")
	return r
}

func (r row) String() string {
	if r == (row{}) {
		return " |  | ignored"
	}
	return fmt.Sprintf("%s | %s | %s", r.to, r.effects, r.why)
}

// tables are one after the other in the docs. Each has the rows that a reader cannot
// find by these rules: a container is like that of the first table; a situation is
// like its stage.
var tables = []struct {
	title  string
	config Config
}{
	{"Outside CRI", newTestConfig(false, "Fail", "preStop with a limit", 0)},
	{"Under CRI, where it differs", newTestConfig(true, "Fail", "preStop with a limit", 0)},
	{"With preStart and onExit, where it differs", withOuterHandlers(newTestConfig(false, "Fail", "preStop with a limit", 0), "Fail", true)},
}

// everyEnd are the columns of all ends of a handler.
const everyEnd = "HandlerEnded, Succeeded; HandlerEnded, Failed; HandlerEnded, container exited"

// stageRow is the row of the situation that is named like the stage.
func stageRow(t *testing.T, config Config, s *situation, event Event) row {
	stage := slices.IndexFunc(situations, func(other situation) bool { return other.name == s.stage() })
	return rowOf(t, config, &situations[stage], event)
}

// found is the row that a reader finds who does not find one in the table of config.
func found(t *testing.T, config Config, s *situation, event Event) row {
	first := tables[0].config
	known := s.plain != nil
	switch {
	case s.name == s.stage() && known:
		return rowOf(t, first, s, event)
	case s.name == s.stage():
		return row{}
	case known && rowOf(t, first, s, event) != stageRow(t, first, s, event): // the first table has it
		return rowOf(t, first, s, event)
	default:
		return stageRow(t, config, s, event)
	}
}

// TestTable holds the generated table in the docs against the machine: every
// situation, every event. It also shows what a change of the machine changes.
func TestTable(t *testing.T) {
	var b strings.Builder
	for i, table := range tables {
		fmt.Fprintf(&b, "### %s\n\n| in | event | to | effects | because |\n|---|---|---|---|---|\n", table.title)
		for j := range situations {
			s := &situations[j]
			if s.pathOf(table.config) == nil {
				continue
			}
			var rows []row
			events := map[row][]string{}
			for _, column := range columns {
				r, expected := rowOf(t, table.config, s, column.event), row{}
				switch {
				case i > 0:
					expected = found(t, table.config, s, column.event)
				case s.name != s.stage():
					expected = stageRow(t, table.config, s, column.event)
				}
				if r == expected {
					continue
				}
				if events[r] == nil {
					rows = append(rows, r)
				}
				events[r] = append(events[r], column.name)
			}
			name := s.name // stands in its first row only
			for _, r := range rows {
				fmt.Fprintf(&b, "| %s | %s | %s |\n", name, strings.ReplaceAll(strings.Join(events[r], "; "), everyEnd, "HandlerEnded"), r)
				name = ""
			}
		}
		b.WriteString("\n")
	}
	compare(t, b.String())
}

// TestEveryStepHasAReason: in every situation of every container, each event has a
// reason, even if it changes nothing.
func TestEveryStepHasAReason(t *testing.T) {
	names, all := sortedConfigs()
	for _, name := range names {
		tried := 0
		for _, s := range situations {
			w, ok := walk(all[name], s.pathOf(all[name]))
			if !ok || situationOf(&w.machine) != s.name {
				continue // a container without that handler does not come here
			}
			for _, column := range columns {
				for _, now := range []time.Time{w.now, latest(w.now, w.machine.Deadline())} {
					tried++
					at := w.clone()
					at.machine.Step(now, column.event)
					if at.machine.Why() == "" {
						t.Errorf("%s: %s in %s: no reason", name, column.name, s.name)
					}
				}
			}
		}
		if tried < 100 {
			t.Errorf("%s: only %d steps were tried", name, tried)
		}
	}
}

// walk does the actions with these names. It reports false if one cannot happen.
func walk(config Config, path path) (*model, bool) {
	w := newModel(config)
	for _, name := range path {
		actions := w.actions()
		i := slices.IndexFunc(actions, func(a action) bool { return a.name == name })
		if i < 0 {
			return w, false
		}
		actions[i].do(w)
	}
	return w, true
}

const (
	tableBegin = "<!-- generated by `go test ./shim/lifecycle -run TestTable -update` -->\n"
	tableEnd   = "<!-- end of the generated table -->\n"
)

func compare(t *testing.T, table string) {
	t.Helper()
	data, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(data), tableBegin)
	current, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the generated table", tableFile)
	}
	if *update {
		if err := os.WriteFile(tableFile, []byte(before+tableBegin+table+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if current != table {
		t.Errorf("the table in %s is not what the machine does; see the change with -update", tableFile)
	}
}

// TestDiagram: every arrow of the drawing in the docs is a step of the machine, and
// the drawing has every stage.
func TestDiagram(t *testing.T) {
	data, err := os.ReadFile(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "```mermaid\n")
	drawing, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatalf("%s has no drawing", tableFile)
	}
	known, drawn := moves(t), map[string]bool{}
	for line := range strings.Lines(drawing) {
		from, to, ok := strings.Cut(strings.TrimSpace(line), " --> ")
		to, _, _ = strings.Cut(to, ":")
		if !ok || from == "[*]" || to == "[*]" {
			continue
		}
		drawn[from], drawn[to] = true, true
		if !known[from+" "+to] {
			t.Errorf("the machine does not go from %s to %s", from, to)
		}
	}
	for _, name := range stageNames {
		if !drawn[name] {
			t.Errorf("the drawing has no arrow of %s", name)
		}
	}
}

// moves are the pairs of stages that one event connects, in containers with and
// without handlers.
func moves(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	for _, config := range configs() {
		for _, s := range situations {
			w, ok := walk(config, s.pathOf(config))
			if !ok {
				continue
			}
			for _, column := range columns {
				at := w.clone()
				at.machine.Step(latest(at.now, at.machine.Deadline()), column.event)
				known[w.machine.Stage().String()+" "+at.machine.Stage().String()] = true
			}
		}
	}
	return known
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
