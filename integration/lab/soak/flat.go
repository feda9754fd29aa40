package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// Sample is what the shim uses when so many handlers have ended. Goroutines, threads, descriptors and the heap after a
// garbage collection are the shim's own counters; the rest is /proc's.
type Sample struct {
	Handlers    int `json:"handlers"`
	Goroutines  int `json:"goroutines"`
	Threads     int `json:"threads"`
	Descriptors int `json:"descriptors"`
	HeapKB      int `json:"heapKB"`
	PSSKB       int `json:"pssKB"`
	AnonymousKB int `json:"anonymousKB"`
}

func (s Sample) String() string {
	return fmt.Sprintf("%5d handlers: %d goroutines, %d threads, %d descriptors, heap %d kB, PSS %d kB, anonymous %d kB",
		s.Handlers, s.Goroutines, s.Threads, s.Descriptors, s.HeapKB, s.PSSKB, s.AnonymousKB)
}

// measure is something that must not grow.
type measure struct {
	name, unit string
	of         func(Sample) int
	// bound of the growth. A leak of one in a hundred handlers is 7 in a run of 1,000, which is the shortest one that
	// shows it, and 36 in one of 5,000.
	bound int
}

// measures, with bounds that are a little above what the Go runtime does by itself: it keeps a thread that it has needed
// once, and gives memory back late.
var measures = []measure{
	{"goroutines", "", func(s Sample) int { return s.Goroutines }, 3},
	{"threads", "", func(s Sample) int { return s.Threads }, 4},
	{"descriptors", "", func(s Sample) int { return s.Descriptors }, 3},
	{"heap after a collection", " kB", func(s Sample) int { return s.HeapKB }, 256},
	// Not PSS, nor what is private: the pages of a program's file become that when other processes that run it end.
	{"anonymous memory", " kB", func(s Sample) int { return s.AnonymousKB }, 2048},
}

// growth of a measure, from the median of the first fifth after the warm-up to that of the last fifth: single samples
// may be high.
type growth struct {
	measure
	early, late int
	// from and to are how many handlers had ended then, in the middle.
	from, to int
}

func (g growth) ok() bool { return g.late-g.early <= g.bound }

func (g growth) String() string {
	return fmt.Sprintf("%s: %d%s after %d handlers, %d%s after %d; at most %d%s more are allowed",
		g.name, g.early, g.unit, g.from, g.late, g.unit, g.to, g.bound, g.unit)
}

// grown compares the samples' ends. The first tenth is warm-up. It needs ten samples.
func grown(samples []Sample) []growth {
	warm := samples[len(samples)/10:]
	fifth := max(1, len(warm)/5)
	first, last := warm[:fifth], warm[len(warm)-fifth:]
	var found []growth
	for _, m := range measures {
		found = append(found, growth{
			measure: m, early: middle(first, m.of), late: middle(last, m.of),
			from: middle(first, handlersOf), to: middle(last, handlersOf),
		})
	}
	return found
}

func handlersOf(s Sample) int { return s.Handlers }

func middle(samples []Sample, of func(Sample) int) int {
	values := make([]int, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	return median(values)
}

func median[T int | float64](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// enough samples to be judged.
const enough = 10

// flat is an error that names all that has grown.
func flat(samples []Sample) error {
	if len(samples) < enough {
		return fmt.Errorf("%d samples are too few to tell whether something grows: run at least %d handlers", len(samples), enough*2*atOnce)
	}
	var errs []error
	for _, g := range grown(samples) {
		if !g.ok() {
			errs = append(errs, fmt.Errorf("it leaks: %s", g))
		}
	}
	return errors.Join(errs...)
}

// Usage of another process, as /proc has it.
type Usage struct {
	Threads     int `json:"threads"`
	Descriptors int `json:"descriptors"`
	PSSKB       int `json:"pssKB"`
}

func usageOf(pid int) (Usage, error) {
	process, err := harness.ProcessByID(pid)
	if err != nil {
		return Usage{}, err
	}
	threads, threadsErr := process.Threads()
	descriptors, descriptorsErr := process.Descriptors()
	memory, memoryErr := process.Memory()
	return Usage{Threads: len(threads), Descriptors: len(descriptors), PSSKB: int(memory.PSS >> 10)}, errors.Join(threadsErr, descriptorsErr, memoryErr)
}
