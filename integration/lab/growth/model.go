package main

import "time"

// Model says what a node does with many containers, from what was measured on another one. It knows processors and memory,
// and nothing of disks, networks and images.
type Model struct {
	// Processors of the machine that was measured, and of the one that is asked about: its processors are as fast.
	Processors float64
	// StartCPU is what the start of a container costs, postStart exec handler and all, in processor time; DrainBefore what a
	// stop costs until its preStop handler runs, and DrainAfter from the handler's end to the container's.
	StartCPU, DrainBefore, DrainAfter time.Duration
	// SharedMemory is what all shims share, PodMemory what another pod's shim needs, and ContainerMemory what another container
	// of a pod adds to it, in bytes.
	SharedMemory, PodMemory, ContainerMemory float64
}

// ModelOf a measurement, for pods with handlers of that kind: exec or sleep. Costs are those of pods of one container.
func ModelOf(r *Results, handler string) Model {
	each, one := r.run("each", handler), r.run("one", handler)
	m := Model{
		Processors:  float64(r.Processors),
		DrainBefore: milliseconds(each.Drain.CPUBeforeMS), DrainAfter: milliseconds(each.Drain.CPUAfterMS),
		PodMemory: slope(each.Steps), ContainerMemory: slope(one.Steps),
	}
	m.SharedMemory = 1e6*each.Steps[0].ShimsPSSMB - m.PodMemory
	var cpu, started float64
	for i, step := range each.Steps {
		before := 0
		if i > 0 {
			before = each.Steps[i-1].Containers
		}
		cpu += step.StartCPUMS * float64(step.Containers-before)
		started = float64(step.Containers)
	}
	m.StartCPU = milliseconds(cpu / started)
	return m
}

func milliseconds(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// slope of the memory over the containers, in bytes for each, from the second step on: the first one has what all share.
func slope(steps []Step) float64 {
	first, last := steps[min(1, len(steps)-1)], steps[len(steps)-1]
	if last.Containers == first.Containers {
		return 1e6 * last.ShimsPSSMB / float64(last.Containers)
	}
	return 1e6 * (last.ShimsPSSMB - first.ShimsPSSMB) / float64(last.Containers-first.Containers)
}

// Drain is how long it takes until so many containers have stopped that are stopped at once, their handlers taking
// preStop. The work before the handlers is a queue, and so is the work after them; they overlap, and what does not fit
// into the time of a handler comes on top.
func (m Model) Drain(containers int, preStop time.Duration) time.Duration {
	n := float64(containers) / m.Processors
	before, after := seconds(m.DrainBefore)*n, seconds(m.DrainAfter)*n
	return toDuration(max(seconds(preStop)+max(before, after), before+after))
}

// Start is how long it takes to start so many containers, where nothing but the processors holds it back.
func (m Model) Start(containers int) time.Duration {
	return toDuration(seconds(m.StartCPU) * float64(containers) / m.Processors)
}

// Memory of the shims of so many pods, in bytes.
func (m Model) Memory(pods, containersOfEach int) float64 {
	return m.SharedMemory + float64(pods)*(m.PodMemory+m.ContainerMemory*float64(containersOfEach-1))
}

// MostAtOnce is how many containers can be stopped at once, so that each handler has the time that it takes before
// the grace period is over.
func (m Model) MostAtOnce(preStop, grace time.Duration) int {
	return int(seconds(grace-preStop) * m.Processors / seconds(m.DrainBefore))
}

// On is the same on a node with that many processors.
func (m Model) On(processors int) Model {
	m.Processors = float64(processors)
	return m
}

func seconds(d time.Duration) float64    { return d.Seconds() }
func toDuration(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// run of that kind. It is there: Measure makes them all.
func (r *Results) run(pod, handler string) Run {
	for _, run := range r.Runs {
		if run.Pod == pod && run.Handler == handler {
			return run
		}
	}
	return Run{}
}
