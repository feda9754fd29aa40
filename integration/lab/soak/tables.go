package main

import (
	"fmt"
	"strings"
	"time"
)

// Tables of the result, as Markdown.
func (r *Result) Tables() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("## The last run")
	line("")
	line("%s, commit %s, %s. It took %s.", r.Began.Format(time.DateOnly), r.Commit, r.Machine, minutes(r.Seconds))
	line("")
	c, s := r.Containers, r.Shim
	line("| what | result |")
	line("|---|---|")
	line("| containers, each with its shim | %d, %d at a time, in %s: %s for each, and %.0f a minute |", c.Done, r.Config.Parallel, minutes(c.Seconds), perContainer(c), 60*float64(c.Done)/max(c.Seconds, 0.001))
	line("| life of a container, first and last tenth | %.1f s, %.1f s (median, with %d at a time) |", c.FirstTenth, c.LastTenth, r.Config.Parallel)
	line("| their handlers | %d, all succeeded |", c.Handlers)
	line("| containerd before and after | %d and %d descriptors, %d and %d threads |", c.Before.Descriptors, c.After.Descriptors, c.Before.Threads, c.After.Threads)
	line("| a pod with %d containers | started at once in %.1f s, stopped at once in %.1f s |", r.Config.Pod, s.StartSeconds, s.StopSeconds)
	line("| its shim | %d handlers, %d of them trials, of %d containers, in %s |", s.Handlers, s.Trials, s.Containers, minutes(s.Seconds))
	line("| left behind | %s |", left(r.Left))
	if len(s.Samples) < enough {
		return b.String()
	}
	line("")
	growths := grown(s.Samples)
	line("| the shim's | after %d handlers | after %d | most in between | bound of the growth |", growths[0].from, growths[0].to)
	line("|---|---|---|---|---|")
	for _, g := range growths {
		line("| %s | %d%s | %d%s | %d%s | %d%s |", g.name, g.early, g.unit, g.late, g.unit, most(s.Samples, g.of), g.unit, g.bound, g.unit)
	}
	return b.String()
}

func minutes(seconds float64) string {
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}

func perContainer(c ContainersResult) string {
	return fmt.Sprintf("%.0f ms", 1000*c.Seconds/float64(max(c.Done, 1)))
}

func most(samples []Sample, of func(Sample) int) int {
	value := 0
	for _, s := range samples {
		value = max(value, of(s))
	}
	return value
}

func left(things []string) string {
	if len(things) == 0 {
		return "nothing"
	}
	return fmt.Sprintf("%d: %s", len(things), strings.Join(things, "; "))
}
