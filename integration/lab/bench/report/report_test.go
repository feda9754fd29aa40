package report

import (
	"math"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestSummarize(t *testing.T) {
	// R: quantile(c(5, 1, 4, 2), c(0, .25, .5, .75, 1))
	want := Spread{N: 4, Min: 1, Q1: 1.75, Median: 3, Q3: 4.25, Max: 5}
	if got := Summarize([]float64{5, 1, 4, 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := Summarize([]float64{7}); got != (Spread{N: 1, Min: 7, Q1: 7, Median: 7, Q3: 7, Max: 7}) {
		t.Errorf("of one value: %+v", got)
	}
}

// lived is a scene in which the handlers add 10, 20 and 60 ms to starts, an exec takes 100, and the rest 1.
func lived(name string) *Scene {
	s := &Scene{Name: name, Unit: "ms"}
	for round, added := range []float64{60, 10, 20} {
		values := map[string]float64{}
		for _, ratio := range lives {
			for _, names := range [][]string{ratio.plus, ratio.minus, ratio.over} {
				for _, name := range names {
					values[name] = 1
				}
			}
		}
		values[NoneStart] = float64(5 * (round + 1)) // what differs from round to round goes out
		values[WithStart] = values[NoneStart] + added
		values[StockExec] = 100
		s.Add(values)
	}
	return s
}

func rowOf(t *testing.T, r *Report, what string) Row {
	t.Helper()
	for _, row := range r.Ratios() {
		if strings.Contains(row.What, what) {
			return row
		}
	}
	t.Fatalf("there is no row %q", what)
	return Row{}
}

func TestRatiosAreOfRounds(t *testing.T) {
	row := rowOf(t, &Report{Scenes: []*Scene{lived(ScenePaced)}}, "addition to Start /")
	want := Row{
		What: row.What, Scene: ScenePaced, Spread: Spread{N: 3, Min: 0.1, Q1: 0.15, Median: 0.2, Q3: 0.4, Max: 0.6},
		Target: 0.5, Beyond: 0.15, Met: true,
	}
	if row != want {
		t.Errorf("got %+v, want %+v", row, want)
	}
}

func TestTargets(t *testing.T) {
	r := &Report{Scenes: []*Scene{lived(ScenePaced), lived(SceneLoad)}}
	for _, row := range r.Ratios() {
		if row.Target > 0 && row.Scene != ScenePaced {
			t.Errorf("%s has a target under %s", row.What, row.Scene)
		}
		if strings.HasSuffix(row.What, "/ crun exec") && row.Scene == ScenePaced && (!row.Met || row.met() != "yes") {
			t.Errorf("a ratio of 1 does not meet a target of 1, or its aim: %+v", row)
		}
		if row.Target == 0 && row.Met {
			t.Errorf("a target is met that there is none of: %+v", row)
		}
	}
	missed := lived(ScenePaced)
	for i := range missed.Series[PreStop] {
		missed.Series[PreStop][i] = 5
	}
	row := rowOf(t, &Report{Scenes: []*Scene{missed}}, "/ nsenter")
	if row.Met || row.met() != "**no**" {
		t.Errorf("a ratio of 5 meets a target of 4: %+v", row)
	}
}

// TestMissingSeries: a scene that has not measured something gives no row of it, and no wrong one.
func TestMissingSeries(t *testing.T) {
	s := lived(ScenePaced)
	delete(s.Series, CrunExec)
	for _, row := range (&Report{Scenes: []*Scene{s}}).Ratios() {
		if strings.HasSuffix(row.What, "/ crun exec") || math.IsNaN(row.Median) {
			t.Errorf("%+v", row)
		}
	}
}

func TestWanted(t *testing.T) {
	for scene, row := range map[string]string{
		SceneRun: "ctr-run: ctr run --rm", ScenePaced: "paced: no-op exec handler / crun exec",
		SceneMemory + "-10": "memory-10: idle PSS", SceneRunning: "memory-handlers: PSS", SceneDrain: "drain: all pods",
	} {
		if !Wanted(scene, func(name string) bool { return strings.HasPrefix(name, row) }) {
			t.Errorf("%s does not give %q", scene, row)
		}
		if Wanted(scene, func(string) bool { return false }) {
			t.Errorf("%s is wanted by nobody, and measured", scene)
		}
	}
}

func TestWriteAndRead(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bench.json")
	wrote := &Report{Machine: Machine{CPU: "a", Versions: map[string]string{"runc": "1"}}, Scenes: []*Scene{lived(ScenePaced)}}
	if err := wrote.Write(file); err != nil {
		t.Fatal(err)
	}
	read, err := Read(file)
	if err != nil || !reflect.DeepEqual(read, wrote) {
		t.Errorf("read %+v, %v; wrote %+v", read, err, wrote)
	}
}
