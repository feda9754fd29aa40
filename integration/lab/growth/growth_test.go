package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// factor within which the model must say what was measured. It knows no queue but the processors', and a machine that does
// other things besides is slower.
const factor = 1.5

// TestModelAgreesWithMeasurement: the model gives what was measured in the run of docs/measurements.md#growth, which testdata holds.
func TestModelAgreesWithMeasurement(t *testing.T) {
	text, err := os.ReadFile("testdata/results.json")
	if err != nil {
		t.Fatal(err)
	}
	r := &Results{}
	if err := json.Unmarshal(text, r); err != nil {
		t.Fatal(err)
	}
	if len(r.Runs) != 4 {
		t.Fatalf("it has %d runs", len(r.Runs))
	}
	for _, c := range r.Checks() {
		if c.Predicted > factor*c.Measured || c.Measured > factor*c.Predicted {
			t.Errorf("%s: the model says %.2f %s, and %.2f were measured", c.Name, c.Predicted, c.Unit, c.Measured)
		}
	}
}

// TestTables: the tables have the largest step and every drain of a result.
func TestTables(t *testing.T) {
	step := []Step{{Containers: 1, StartMS: 124, StartCPUMS: 120, ShimsPSSMB: 15.8}, {Containers: 200, StartMS: 84, StartCPUMS: 94, ShimsPSSMB: 40}}
	r := &Results{Date: "2026-11-23", Commit: "abc", Processors: 2, PreStopSeconds: 5}
	for _, pod := range []string{"one", "each"} {
		for _, handler := range []string{"exec", "sleep"} {
			r.Runs = append(r.Runs, Run{Pod: pod, Handler: handler, Steps: step, Drain: Drain{Containers: 200, LastExit: 7.5, Ratio: 1.5}})
		}
	}
	for _, row := range []string{"2026-11-23, commit abc", "| 200 | 84 ms, 94 ms, 40.0 MB | 84 ms, 94 ms, 40.0 MB |", "| 200, one pod | exec |", "| 200, a pod each | sleep |"} {
		if tables := r.Tables(); !strings.Contains(tables, row) {
			t.Errorf("the tables lack %q:\n%s", row, tables)
		}
	}
}

// TestModel: what can be worked out on paper.
func TestModel(t *testing.T) {
	m := Model{Processors: 2, StartCPU: 100 * time.Millisecond, DrainBefore: 30 * time.Millisecond, DrainAfter: 10 * time.Millisecond, SharedMemory: 1e6, PodMemory: 5e6, ContainerMemory: 1e5}
	for name, test := range map[string]struct{ got, want any }{
		"one container":           {m.Drain(1, 5*time.Second).Round(time.Millisecond), 5015 * time.Millisecond},
		"200":                     {m.Drain(200, 5*time.Second), 8 * time.Second},
		"the processors are busy": {m.Drain(2000, 5*time.Second), 40 * time.Second},
		"more processors":         {m.On(64).Drain(200, 5*time.Second).Round(time.Millisecond), 5094 * time.Millisecond},
		"starts":                  {m.Start(1000), 50 * time.Second},
		"memory":                  {m.Memory(10, 3), 53e6},
		"at once":                 {m.MostAtOnce(5*time.Second, 30*time.Second), 1666},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %v, want %v", name, test.got, test.want)
		}
	}
}

// TestSteps: from one to all, and small numbers too.
func TestSteps(t *testing.T) {
	for containers, want := range map[int][]int{1: {1}, 5: {1, 2, 3, 4, 5}, 200: {1, 20, 40, 60, 80, 100, 120, 140, 160, 180, 200}} {
		got := steps(containers)
		if len(got) != len(want) || got[len(got)-1] != containers {
			t.Errorf("%d: %v", containers, got)
		}
	}
}
