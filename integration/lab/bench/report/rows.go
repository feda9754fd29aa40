package report

import (
	"math"
	"slices"
	"strings"
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
	PostStart    = "postStart handler" // as HandlerFinished tells
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

// ratio says how a row comes from the series of a scene: in each round, what is in plus less what is in minus, divided by what
// is in over.
type ratio struct {
	what              string
	plus, minus, over []string
	// target and beyond are upper limits by scene; a scene without has none.
	target, beyond map[string]float64
}

var lives = []ratio{
	{
		what: "no-op postStart's addition to Start / stock Exec+Start+Wait+Delete",
		plus: []string{WithStart}, minus: []string{NoneStart}, over: []string{StockExec},
		target: map[string]float64{ScenePaced: 0.5, ScenePaced + Seccomp: 0.4},
		beyond: map[string]float64{ScenePaced: 0.15, ScenePaced + Seccomp: 0.1},
	},
	{
		what: "no-op exec handler / crun exec",
		plus: []string{PreStop}, over: []string{CrunExec},
		target: map[string]float64{ScenePaced: 1}, beyond: map[string]float64{ScenePaced: 0.3},
	},
	{
		what: "no-op exec handler / nsenter",
		plus: []string{PreStop}, over: []string{Nsenter},
		target: map[string]float64{ScenePaced: 4}, beyond: map[string]float64{ScenePaced: 1.5},
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
	target: map[string]float64{SceneRun: 1.02}, beyond: map[string]float64{SceneRun: 1},
}}

var idle = []ratio{
	{
		what: "idle PSS, ours / stock",
		plus: []string{OursPSS}, over: []string{StockPSS},
		target: map[string]float64{SceneMemory + "-1": 1.05, SceneMemory + "-10": 1.05, SceneMemory + "-100": 1.05},
		beyond: map[string]float64{SceneMemory + "-1": 1, SceneMemory + "-10": 1, SceneMemory + "-100": 1},
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
	target: map[string]float64{SceneDrain: 1.5}, beyond: map[string]float64{SceneDrain: 1.1},
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

// Row is a ratio in one scene: the spread of what its rounds give.
type Row struct {
	What  string `json:"what"`
	Scene string `json:"scene"`
	Spread
	// Target is the most that the median may be, and Beyond what is aimed at; 0: none is set.
	Target float64 `json:"target,omitempty"`
	Beyond float64 `json:"beyond,omitempty"`
	Met    bool    `json:"met"`
}

// Ratios are the rows of all scenes, those with a target first.
func (r *Report) Ratios() []Row {
	var rows []Row
	for _, scene := range r.Scenes {
		for _, ratio := range ratiosOf(scene.Name) {
			if values := ratio.of(scene); len(values) > 0 {
				rows = append(rows, ratio.row(scene, values))
			}
		}
	}
	slices.SortStableFunc(rows, func(a, b Row) int { return boolInt(a.Target == 0) - boolInt(b.Target == 0) })
	return rows
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (q ratio) row(scene *Scene, values []float64) Row {
	row := Row{What: q.what, Scene: scene.Name, Spread: Summarize(values), Target: q.target[scene.Name], Beyond: q.beyond[scene.Name]}
	row.Met = row.Target > 0 && row.Median <= row.Target
	for _, value := range []*float64{&row.Min, &row.Q1, &row.Median, &row.Q3, &row.Max} {
		*value = math.Round(*value*1e4) / 1e4
	}
	return row
}

// of returns the ratio in each round, or nothing where the scene lacks a series.
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

// Wanted says whether any row that such a scene gives is named by match, as "SCENE: ROW".
func Wanted(scene string, match func(row string) bool) bool {
	return slices.ContainsFunc(ratiosOf(scene), func(q ratio) bool { return match(scene + ": " + q.what) })
}
