package main

import (
	"fmt"
	"strings"
	"time"
)

// Tables of the results, and of what the model says.
func (r *Results) Tables() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("%s, commit %s, %s. Each preStop takes %.0f s.", r.Date, r.Commit, r.Machine, r.PreStopSeconds)
	line("")
	line("### What one more container costs")
	line("")
	line("Containers with an exec postStart, started one after the other. Time from the creation of the task to the end of postStart (median of the step), processor")
	line("time of containerd, shims, runc and handlers, and the memory of all shims together (PSS).")
	line("")
	line("| containers | one pod: start, processor, shim | a pod each: start, processor, shims |")
	line("|---|---|---|")
	one, each := r.run("one", "exec"), r.run("each", "exec")
	for i := range one.Steps {
		line("| %d | %s | %s |", one.Steps[i].Containers, one.Steps[i], each.Steps[i])
	}
	line("")
	line("### All stopped at once")
	line("")
	line("Seconds from the first request on.")
	line("")
	line("| containers | preStop | all requests answered | last handler began | longest handler | last exit | ratio | processor before, after |")
	line("|---|---|---|---|---|---|---|---|")
	for _, run := range r.Runs {
		d := run.Drain
		line("| %d, %s | %s | %.2f | %.2f | %.2f | %.2f | %.2f | %.0f ms, %.0f ms |", d.Containers, podsOf(run), run.Handler,
			d.RequestsAnswered, max(d.LastBegan, 0), d.LongestHandler, d.LastExit, d.Ratio, d.CPUBeforeMS, d.CPUAfterMS)
	}
	line("")
	r.modelTables(line)
	return b.String()
}

func podsOf(run Run) string {
	if run.Pod == "one" {
		return "one pod"
	}
	return "a pod each"
}

func (s Step) String() string {
	return fmt.Sprintf("%.0f ms, %.0f ms, %.1f MB", s.StartMS, s.StartCPUMS, s.ShimsPSSMB)
}

// The node that the model is asked about: more pods than Kubernetes advises, and the grace period that it gives.
const (
	nodePods  = 1000
	nodeGrace = 30 * time.Second
)

var nodeProcessors = []int{2, 16, 64}

func (r *Results) modelTables(line func(string, ...any)) {
	line("### What the model says")
	line("")
	line("| measured | model | measured | of it |")
	line("|---|---|---|---|")
	for _, c := range r.Checks() {
		line("| %s | %.2f %s | %.2f %s | %.0f %% |", c.Name, c.Predicted, c.Unit, c.Measured, c.Unit, 100*c.Predicted/c.Measured)
	}
	line("")
	preStop := toDuration(r.PreStopSeconds)
	exec, sleep := ModelOf(r, "exec"), ModelOf(r, "sleep")
	line("A node with %d pods of one container each, with processors like these:", nodePods)
	line("")
	line("| processors | shims | all started | all stopped at once, exec | the same, sleep | most exec preStops of %.0f s at once within %.0f s |", r.PreStopSeconds, nodeGrace.Seconds())
	line("|---|---|---|---|---|---|")
	for _, processors := range nodeProcessors {
		e, s := exec.On(processors), sleep.On(processors)
		line("| %d | %.1f GB | %s | %s | %s | %d |", processors, e.Memory(nodePods, 1)/1e9, whole(e.Start(nodePods)),
			whole(e.Drain(nodePods, preStop)), whole(s.Drain(nodePods, preStop)), e.MostAtOnce(preStop, nodeGrace))
	}
}

func whole(d time.Duration) string { return d.Round(time.Second).String() }

// Check is a number of the model, and the one that was measured.
type Check struct {
	Name, Unit          string
	Predicted, Measured float64
}

// Checks of the model against the results that it was not made from: the times of the drains, and the memory at the end.
func (r *Results) Checks() []Check {
	var checks []Check
	for _, run := range r.Runs {
		m := ModelOf(r, run.Handler)
		n := run.Drain.Containers
		checks = append(checks, Check{
			Name: fmt.Sprintf("drain of %d, %s, %s", n, podsOf(run), run.Handler), Unit: "s",
			Predicted: m.Drain(n, toDuration(r.PreStopSeconds)).Seconds(), Measured: run.Drain.LastExit,
		})
		pods, of := n, 1
		if run.Pod == "one" {
			pods, of = 1, n
		}
		checks = append(checks, Check{
			Name: fmt.Sprintf("shims of %d, %s, %s", n, podsOf(run), run.Handler), Unit: "MB",
			Predicted: m.Memory(pods, of) / 1e6, Measured: run.Steps[len(run.Steps)-1].ShimsPSSMB,
		})
	}
	return checks
}
