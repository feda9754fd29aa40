package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/perf/benchfmt"
)

// Report is one run of the benchmark.
type Report struct {
	// Machine says what the numbers belong to, one line each in the results: processor, kernel, versions, commit.
	Machine map[string]string
	Scenes  []*Scene
}

// Scene is what was measured under one set of circumstances.
type Scene struct {
	Name string
	// Series are the values by what was measured, in the scene's unit. Values with one index are of one round.
	Series map[string][]float64
}

// Add appends a round's values, which must be of the same series each time.
func (s *Scene) Add(values map[string]float64) {
	if s.Series == nil {
		s.Series = map[string][]float64{}
	}
	for name, value := range values {
		s.Series[name] = append(s.Series[name], value)
	}
}

// Rounds is how many rounds have been added.
func (s *Scene) Rounds() int {
	rounds := 0
	for _, values := range s.Series {
		rounds = max(rounds, len(values))
	}
	return rounds
}

// unit returns benchstat's unit for the values of the scene, and the factor that converts them.
func (s *Scene) unit() (unit string, factor float64) {
	switch {
	case strings.HasPrefix(s.Name, SceneMemory):
		return "B", 1e6
	case s.Name == SceneDrain:
		return "sec", 1
	default:
		return "sec", 1e-3
	}
}

// WriteBenchmarks writes every value in the format of Go's benchmarks, round by round, and after the values of a round its ratios.
func (r *Report) WriteBenchmarks(w io.Writer) error {
	out := benchfmt.NewWriter(w)
	var machine []benchfmt.Config
	for _, key := range slices.Sorted(maps.Keys(r.Machine)) {
		machine = append(machine, benchfmt.Config{Key: key, Value: []byte(r.Machine[key]), File: true})
	}
	for _, scene := range r.Scenes {
		write := func(what, unit string, value float64) error {
			name := fmt.Sprintf("Lifecycle/scene=%s/what=%s", scene.Name, word.Replace(what))
			return out.Write(&benchfmt.Result{Config: machine, Name: benchfmt.Name(name), Iters: 1, Values: []benchfmt.Value{{Value: value, Unit: unit}}})
		}
		unit, factor := scene.unit()
		for round := range scene.Rounds() {
			for _, name := range slices.Sorted(maps.Keys(scene.Series)) {
				if err := write(name, unit, factor*scene.Series[name][round]); err != nil {
					return err
				}
			}
			for _, ratio := range ratiosOf(scene.Name) {
				if values := ratio.of(scene); round < len(values) {
					if err := write(ratio.what, "ratio", values[round]); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

// word makes one word of a name, as the names of benchmarks are. A slash would begin another part of the name.
var word = strings.NewReplacer(" / ", "-per-", ", ", "-", " ", "-")

// WriteText writes the rows with a target for a terminal. The interval is that of the median, at 95 %.
func (r *Report) WriteText(out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "SCENE\tRATIO\tMEDIAN\tINTERVAL\tROUNDS\tTARGET\tAIM\tMET")
	for _, row := range r.Rows() {
		fmt.Fprintf(table, "%s\t%s\t%.3g\t%.3g to %.3g\t%d\t%g\t%g\t%s\n",
			row.Scene, row.What, row.Center, row.Lo, row.Hi, row.Rounds, row.Target, row.Aim, row.met())
	}
	return table.Flush()
}

// met in words: a missed target is not an error, as the machine may be the reason.
func (r Row) met() string {
	switch {
	case r.Center > r.Target:
		return "no"
	case r.Center <= r.Aim:
		return "yes, and the aim"
	default:
		return "yes"
	}
}
