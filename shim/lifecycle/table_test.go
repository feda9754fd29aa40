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

var update = flag.Bool("update", false, "rewrite the generated table")

const tableFile = "../../docs/lifecycle.md"

func sortedConfigs() ([]string, map[string]Config) {
	all := configs()
	return slices.Sorted(maps.Keys(all)), all
}

// reach says how each phase is come to. A phase that is missing here fails the
// test below.
var reach = map[Phase][]string{
	Created:           {},
	Starting:          {"Start"},
	StartingStop:      {"Start", "Kill TERM"},
	StartingPassed:    {"Start", "Kill KILL"},
	StartingExited:    {"Start", "exit"},
	PostStarting:      {"Start", "start returns"},
	PostStartEnding:   {"Start", "start returns", "time"},
	PostStartStopping: {"Start", "start returns", "Kill TERM"},
	Running:           {"Start", "start returns", "handler succeeds"},
	PreStopping:       {"Start", "start returns", "handler succeeds", "Kill TERM"},
	PreStopEnding:     {"Start", "start returns", "handler succeeds", "Kill TERM", "time"},
	Stopping:          {"Start", "start returns", "handler succeeds", "Kill TERM", "handler succeeds"},
	Exited:            {"Start", "start returns", "handler succeeds", "Kill TERM", "exit"},
	Deleting:          {"Start", "start returns", "handler succeeds", "Kill TERM", "exit", "Delete"},
	Deleted:           {"Delete", "delete returns"},
}

// reachOuter says it for a container with all four handlers.
var reachOuter = map[Phase][]string{
	Created:           {},
	PreStarting:       {"Start"},
	PreStartEnding:    {"Start", "time"},
	NotStarting:       {"Start", "handler fails"},
	Starting:          {"Start", "handler succeeds"},
	StartingStop:      {"Start", "handler succeeds", "Kill TERM"},
	StartingPassed:    {"Start", "handler succeeds", "Kill KILL"},
	StartingExited:    {"Start", "handler succeeds", "exit"},
	PostStarting:      {"Start", "handler succeeds", "start returns"},
	PostStartEnding:   {"Start", "handler succeeds", "start returns", "time"},
	PostStartStopping: {"Start", "handler succeeds", "start returns", "Kill TERM"},
	Running:           {"Start", "handler succeeds", "start returns", "handler succeeds"},
	PreStopping:       {"Start", "handler succeeds", "start returns", "handler succeeds", "Kill TERM"},
	PreStopEnding:     {"Start", "handler succeeds", "start returns", "handler succeeds", "Kill TERM", "time"},
	Stopping:          {"Start", "handler succeeds", "start returns", "handler succeeds", "Kill TERM", "handler succeeds"},
	OnExitDue:         {"Start", "handler succeeds", "start returns", "exit"},
	OnExiting:         {"Start", "handler succeeds", "start returns", "handler succeeds", "exit"},
	OnExitEnding:      {"Start", "handler succeeds", "start returns", "handler succeeds", "exit", "Kill KILL"},
	Exited:            {"Start", "handler succeeds", "start returns", "handler succeeds", "exit", "handler succeeds"},
	Deleting:          {"Start", "handler succeeds", "start returns", "handler succeeds", "exit", "Kill KILL", "time", "Delete"},
	Deleted:           {"Delete", "delete returns"},
}

func reachable(config Config) map[Phase][]string {
	if config.PreStart != nil {
		return reachOuter
	}
	return reach
}

// columns are the events of the table, kills by what they mean.
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

func in(t *testing.T, config Config, phase Phase) *model {
	t.Helper()
	path, ok := reachable(config)[phase]
	if !ok {
		t.Fatalf("nothing says how to come to %s", phase)
	}
	w, ok := walk(config, path)
	if !ok || w.machine.Phase() != phase || w.broken != "" {
		t.Fatalf("%v lead to %s, not to %s (%s)", path, w.machine.Phase(), phase, w.broken)
	}
	return w
}

// TestTable holds the table in the docs against the machine: every phase, every
// event. It is also what shows a reader of a change what the change does.
func TestTable(t *testing.T) {
	var b strings.Builder
	for _, cri := range []bool{false, true} {
		config := newTestConfig(cri, "Fail", "preStop with a limit", 0)
		title := "Elsewhere than under CRI"
		if cri {
			title = "Under CRI, where it differs"
		}
		fmt.Fprintf(&b, "### %s\n\n| in | event | to | effects | because |\n|---|---|---|---|---|\n", title)
		for phase := Created; phase < phases; phase++ {
			if _, ok := reach[phase]; !ok {
				continue // below
			}
			for _, column := range columns {
				row := tableRow(t, config, phase, column.name, column.event)
				if cri && row == tableRow(t, newTestConfig(false, "Fail", "preStop with a limit", 0), phase, column.name, column.event) {
					continue
				}
				b.WriteString(row)
			}
		}
		b.WriteString("\n")
	}
	outerTable(t, &b)
	compare(t, b.String())
}

// outerTable is what preStart and onExit add, and change.
func outerTable(t *testing.T, b *strings.Builder) {
	base := newTestConfig(false, "Fail", "preStop with a limit", 0)
	config := withOuterHandlers(base, "Fail", true)
	fmt.Fprintf(b, "### With preStart and onExit, where it differs\n\n| in | event | to | effects | because |\n|---|---|---|---|---|\n")
	for phase := Created; phase < phases; phase++ {
		_, known := reach[phase]
		for _, column := range columns {
			row := tableRow(t, config, phase, column.name, column.event)
			if known && row == tableRow(t, base, phase, column.name, column.event) {
				continue
			}
			b.WriteString(row)
		}
	}
	b.WriteString("\n")
}

func tableRow(t *testing.T, config Config, phase Phase, name string, event Event) string {
	w := in(t, config, phase)
	now := w.now
	if event.Kind == DeadlineReached {
		if w.machine.Deadline().IsZero() {
			return ""
		}
		now = w.machine.Deadline()
	}
	effects := w.machine.Step(now, event)
	if len(effects) == 0 && w.machine.Phase() == phase {
		return "" // ignored
	}
	words := make([]string, len(effects))
	for i, effect := range effects {
		words[i] = effect.String()
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", phase, name, w.machine.Phase(), strings.Join(words, ", "), w.machine.Why())
}

// TestEveryStepHasAReason: whatever a container asks for, every event in every
// phase that it comes to, also the events that change nothing.
func TestEveryStepHasAReason(t *testing.T) {
	names, all := sortedConfigs()
	for _, name := range names {
		tried := 0
		for phase, path := range reachable(all[name]) {
			w, ok := walk(all[name], path)
			if !ok || w.machine.Phase() != phase {
				continue // a container without that handler does not come here
			}
			for _, column := range columns {
				for _, now := range []time.Time{w.now, latest(w.now, w.machine.Deadline())} {
					tried++
					at := w.clone()
					at.machine.Step(now, column.event)
					if at.machine.Why() == "" {
						t.Errorf("%s: %s in %s: no reason is told", name, column.name, phase)
					}
				}
			}
		}
		if tried < 100 {
			t.Errorf("%s: %d steps are tried", name, tried)
		}
	}
}

// walk does the actions of these names, as far as they can happen.
func walk(config Config, path []string) (*model, bool) {
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

// TestDiagram holds the arrows of the drawing in the docs against the machine.
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
	known := moves(t)
	arrows := 0
	for line := range strings.Lines(drawing) {
		from, to, ok := strings.Cut(strings.TrimSpace(line), " --> ")
		to, _, _ = strings.Cut(to, ":")
		if !ok || from == "[*]" || to == "[*]" {
			continue
		}
		arrows++
		if !known[from+" "+to] {
			t.Errorf("the machine does not go from %s to %s", from, to)
		}
	}
	if arrows == 0 {
		t.Error("the drawing has no arrows")
	}
}

// moves are the pairs of phases that one event leads along, with and without
// postStart.
func moves(t *testing.T) map[string]bool {
	t.Helper()
	known := map[string]bool{}
	outer := withOuterHandlers(newTestConfig(false, "Fail", "preStop with a limit", 0), "Fail", true)
	for phase := Created; phase < phases; phase++ {
		for _, column := range columns {
			w := in(t, outer, phase)
			w.machine.Step(latest(w.now, w.machine.Deadline()), column.event)
			known[phase.String()+" "+w.machine.Phase().String()] = true
			if _, ok := reach[phase]; !ok {
				continue
			}
			w = in(t, newTestConfig(false, "Fail", "preStop with a limit", 0), phase)
			if phase == Starting && column.event.Kind == StartReturned {
				plain := newModel(newTestConfig(false, "", "preStop", 0))
				plain.ask(Event{Kind: StartRequested})
				plain.machine.Step(plain.now, column.event)
				known[phase.String()+" "+plain.machine.Phase().String()] = true
			}
			w.machine.Step(latest(w.now, w.machine.Deadline()), column.event)
			known[phase.String()+" "+w.machine.Phase().String()] = true
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
