package report

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/perf/benchfmt"
)

// lived is a scene in which the handlers add 10, 20 and 60 ms to starts, an exec takes 100, and the rest 1.
func lived(name string) *Scene {
	s := &Scene{Name: name}
	for round, added := range []float64{60, 10, 20} {
		values := map[string]float64{}
		for _, ratio := range lives {
			for _, names := range [][]string{ratio.plus, ratio.minus, ratio.over} {
				for _, name := range names {
					values[name] = 1
				}
			}
		}
		values[NoneStart] = float64(5 * (round + 1)) // a change from round to round cancels out
		values[WithStart] = values[NoneStart] + added
		values[StockExec] = 100
		s.Add(values)
	}
	return s
}

func rowOf(t *testing.T, r *Report, what string) Row {
	t.Helper()
	rows := r.Rows()
	i := slices.IndexFunc(rows, func(row Row) bool { return strings.Contains(row.What, what) })
	if i < 0 {
		t.Fatalf("there is no row %q", what)
	}
	return rows[i]
}

func TestRatiosAreOfRounds(t *testing.T) {
	row := rowOf(t, &Report{Scenes: []*Scene{lived(ScenePaced)}}, "addition to Start /")
	if row.Scene != ScenePaced || row.Rounds != 3 || row.Center != 0.2 || row.Target != 0.5 || row.Aim != 0.15 || row.met() != "yes" {
		t.Errorf("got %+v, want the median 0.2 of 3 rounds", row)
	}
}

func TestTargets(t *testing.T) {
	for _, row := range (&Report{Scenes: []*Scene{lived(ScenePaced), lived(SceneLoad)}}).Rows() {
		if row.Scene != ScenePaced {
			t.Errorf("%s has a target under %s", row.What, row.Scene)
		}
	}
	for value, want := range map[float64]string{5: "no", 4: "yes", 1.5: "yes, and the aim"} {
		scene := lived(ScenePaced)
		for i := range scene.Series[PreStop] {
			scene.Series[PreStop][i] = value
		}
		if row := rowOf(t, &Report{Scenes: []*Scene{scene}}, "/ nsenter"); row.met() != want {
			t.Errorf("a ratio of %v meets its target: %q, want %q", value, row.met(), want)
		}
	}
}

// TestMissingSeries: a scene gives no ratio of a series that it lacks.
func TestMissingSeries(t *testing.T) {
	s := lived(ScenePaced)
	delete(s.Series, CrunExec)
	for _, row := range (&Report{Scenes: []*Scene{s}}).Rows() {
		if strings.HasSuffix(row.What, "/ crun exec") {
			t.Errorf("%+v", row)
		}
	}
}

// TestWriteBenchmarks: benchstat's reader gets every value and every ratio, in base units, with the machine.
func TestWriteBenchmarks(t *testing.T) {
	var text strings.Builder
	r := &Report{Machine: map[string]string{"cpu": "a", "runc": "1.5"}, Scenes: []*Scene{lived(ScenePaced), {Name: SceneMemory + "-10", Series: map[string][]float64{OursPSS: {2}}}}}
	if err := r.WriteBenchmarks(&text); err != nil {
		t.Fatal(err)
	}
	got := map[string][]float64{}
	reader := benchfmt.NewReader(strings.NewReader(text.String()), "bench.txt")
	for reader.Scan() {
		result, ok := reader.Result().(*benchfmt.Result)
		if !ok {
			t.Fatalf("got %v", reader.Result())
		}
		if result.GetConfig("runc") != "1.5" || result.GetConfig("cpu") != "a" {
			t.Errorf("the configuration of %s is %v", result.Name, result.Config)
		}
		key := result.Name.String() + " " + result.Values[0].Unit
		got[key] = append(got[key], result.Values[0].Value)
	}
	for key, want := range map[string][]float64{
		"Lifecycle/scene=paced/what=stock-exec-RPCs sec":                                                        {0.1, 0.1, 0.1},
		"Lifecycle/scene=paced/what=no-op-postStart's-addition-to-Start-per-stock-Exec+Start+Wait+Delete ratio": {0.6, 0.1, 0.2},
		"Lifecycle/scene=memory-10/what=PSS-ours B":                                                             {2e6},
	} {
		if !slices.Equal(got[key], want) {
			t.Errorf("%s: got %v, want %v", key, got[key], want)
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
			t.Errorf("%s is wanted although no row is", scene)
		}
	}
}
