package report

import (
	"slices"
	"strings"

	"golang.org/x/perf/benchmath"
)

// Names of scenes. Those with a profile have Seccomp appended.
const (
	SceneRun       = "ctr-run"
	ScenePaced     = "paced"
	SceneBurst     = "burst"
	SceneLoad      = "load"
	SceneThrottled = "throttled"
	SceneMemory    = "memory" // -COUNT is appended
	SceneRunning   = "memory-handlers"
	SceneDrain     = "drain"
	Seccomp        = "-seccomp"
)

// Series of the scenes in which containers live and commands are run in them, in ms. "none" is ours without handlers, "with"
// ours with no-op postStart and preStop handlers.
const (
	StockExec    = "stock exec RPCs" // Exec, Start, Wait, Delete
	CtrExec      = "ctr task exec"
	RuncExec     = "runc exec"
	CrunExec     = "crun exec"
	Nsenter      = "nsenter"
	Trial        = "lifecycle Run RPC"
	TrialCrun    = "lifecycle Run RPC, crun's container"
	PostStart    = "postStart handler" // from HandlerFinished
	PreStop      = "preStop handler"
	NoneCreate   = "create, no handlers"
	NoneStart    = "start, no handlers"
	NoneStop     = "stop, no handlers"
	NoneDelete   = "delete, no handlers"
	WithCreate   = "create, with handlers"
	WithStart    = "start, with handlers"
	WithStop     = "stop, with handlers"
	WithDelete   = "delete, with handlers"
	StockCreate  = "create, stock"
	StockStart   = "start, stock"
	StockStop    = "stop, stock"
	StockDelete  = "delete, stock"
	RunOurs      = "ctr run --rm, ours"
	RunStock     = "ctr run --rm, stock"
	OursPSS      = "PSS, ours"
	StockPSS     = "PSS, stock"
	OursPrivate  = "private, ours"
	StockPrivate = "private, stock"
	// Of the scene with handlers that run.
	RunningOursPSS  = "PSS, ours, handler running"
	RunningStockPSS = "PSS, stock, exec running"
	RunningOursOwn  = "private, ours, handler running"
	RunningStockOwn = "private, stock, exec running"
	// Of the drain, in s.
	DrainSeconds = "wall"
	DrainPreStop = "preStop"
)

// ratio is a quotient of series of a scene, taken in each round: the sum of plus, less the sum of minus, divided by the sum of over.
type ratio struct {
	what              string
	plus, minus, over []string
	// target and aim are upper limits, by scene. Other scenes have none.
	target, aim map[string]float64
}

var lives = []ratio{
	{
		what: "no-op postStart's addition to Start / stock Exec+Start+Wait+Delete",
		plus: []string{WithStart}, minus: []string{NoneStart}, over: []string{StockExec},
		target: map[string]float64{ScenePaced: 0.5, ScenePaced + Seccomp: 0.4},
		aim:    map[string]float64{ScenePaced: 0.15, ScenePaced + Seccomp: 0.1},
	},
	{
		what: "no-op exec handler / crun exec",
		plus: []string{PreStop}, over: []string{CrunExec},
		target: map[string]float64{ScenePaced: 1}, aim: map[string]float64{ScenePaced: 0.3},
	},
	{
		what: "no-op exec handler / nsenter",
		plus: []string{PreStop}, over: []string{Nsenter},
		target: map[string]float64{ScenePaced: 4}, aim: map[string]float64{ScenePaced: 1.5},
	},
	{what: "no-op exec handler / runc exec", plus: []string{PreStop}, over: []string{RuncExec}},
	{what: "no-op exec handler / stock Exec+Start+Wait+Delete", plus: []string{PreStop}, over: []string{StockExec}},
	{what: "no-op exec handler / ctr task exec", plus: []string{PreStop}, over: []string{CtrExec}},
	{
		what: "no-op postStart's addition to Create+Start / stock Exec+Start+Wait+Delete",
		plus: []string{WithCreate, WithStart}, minus: []string{NoneCreate, NoneStart}, over: []string{StockExec},
	},
	{
		what: "no-op preStop's addition to a stop / stock Exec+Start+Wait+Delete",
		plus: []string{WithStop}, minus: []string{NoneStop}, over: []string{StockExec},
	},
	{
		what: "Create+Start, no handlers, ours / stock",
		plus: []string{NoneCreate, NoneStart}, over: []string{StockCreate, StockStart},
	},
	{
		what: "stop+Delete, no handlers, ours / stock",
		plus: []string{NoneStop, NoneDelete}, over: []string{StockStop, StockDelete},
	},
}

var runs = []ratio{{
	what: "ctr run --rm, no handlers, ours / stock",
	plus: []string{RunOurs}, over: []string{RunStock},
	target: map[string]float64{SceneRun: 1.02}, aim: map[string]float64{SceneRun: 1},
}}

var idle = []ratio{
	{
		what: "idle PSS, ours / stock",
		plus: []string{OursPSS}, over: []string{StockPSS},
		target: map[string]float64{SceneMemory + "-1": 1.05, SceneMemory + "-10": 1.05, SceneMemory + "-100": 1.05},
		aim:    map[string]float64{SceneMemory + "-1": 1, SceneMemory + "-10": 1, SceneMemory + "-100": 1},
	},
	{what: "idle private memory, ours / stock", plus: []string{OursPrivate}, over: []string{StockPrivate}},
}

var running = []ratio{
	{what: "idle PSS, ours with handlers / stock", plus: []string{OursPSS}, over: []string{StockPSS}},
	{what: "PSS, a handler running / stock, an exec running", plus: []string{RunningOursPSS}, over: []string{RunningStockPSS}},
}

var drains = []ratio{{
	what: "all pods stopped at once: wall / preStop's 5 s",
	plus: []string{DrainSeconds}, over: []string{DrainPreStop},
	target: map[string]float64{SceneDrain: 1.5}, aim: map[string]float64{SceneDrain: 1.1},
}}

// ratiosOf lists what a scene of that name can give.
func ratiosOf(scene string) []ratio {
	switch {
	case scene == SceneRun:
		return runs
	case scene == SceneRunning:
		return running
	case scene == SceneDrain:
		return drains
	case strings.HasPrefix(scene, SceneMemory+"-"):
		return idle
	default:
		return lives
	}
}

// Row is a ratio that has a target in its scene: the median of the rounds' ratios, and its confidence interval.
type Row struct {
	What, Scene string
	Rounds      int
	benchmath.Summary
	// Target is the most that the median may be, Aim what it should become.
	Target, Aim float64
}

// Rows returns those of all scenes.
func (r *Report) Rows() []Row {
	const confidence = 0.95
	var rows []Row
	for _, scene := range r.Scenes {
		for _, ratio := range ratiosOf(scene.Name) {
			values := ratio.of(scene)
			if len(values) == 0 || ratio.target[scene.Name] == 0 {
				continue
			}
			sample := benchmath.NewSample(values, &benchmath.DefaultThresholds)
			rows = append(rows, Row{
				What: ratio.what, Scene: scene.Name, Rounds: len(values), Summary: benchmath.AssumeNothing.Summary(sample, confidence),
				Target: ratio.target[scene.Name], Aim: ratio.aim[scene.Name],
			})
		}
	}
	return rows
}

// of returns the ratio of each round, or nothing if the scene lacks a series.
func (q ratio) of(scene *Scene) []float64 {
	top, ok := scene.sum(q.plus, q.minus)
	bottom, also := scene.sum(q.over, nil)
	if !ok || !also {
		return nil
	}
	for i := range top {
		top[i] /= bottom[i]
	}
	return top
}

// sum adds series up round by round. All series of a scene have the same length.
func (s *Scene) sum(plus, minus []string) ([]float64, bool) {
	total := make([]float64, s.Rounds())
	for i, name := range slices.Concat(plus, minus) {
		values, sign := s.Series[name], 1.0
		if len(values) != len(total) {
			return nil, false
		}
		if i >= len(plus) {
			sign = -1
		}
		for round, value := range values {
			total[round] += sign * value
		}
	}
	return total, true
}

// Wanted reports whether match accepts any ratio of the scene, as "SCENE: RATIO".
func Wanted(scene string, match func(row string) bool) bool {
	return slices.ContainsFunc(ratiosOf(scene), func(q ratio) bool { return match(scene + ": " + q.what) })
}
