package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Page is docs/endurance.md: the tables, and the result itself, from which the page can be made again.
func (r *Result) Page() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Endurance")
	line("")
	line("<!-- written by `make soak SOAK_PAGE=docs/endurance.md` -->")
	line("")
	line("`make soak` runs thousands of handlers under a private containerd 2.4, and fails where an event, an exit status or a handler is lost, where the")
	line("shim grows, or where a process, mount, cgroup, socket or directory is left behind.")
	line("")
	line("1. **Containers** with a postStart and a preStop, each with a shim of its own, so many at a time: made, started, stopped, deleted. Every other one has")
	line("   exec handlers, the rest goes through all pairs of `exec`, `httpGet`, `tcpSocket` and `sleep`. All of them must exit with the true status, and their events")
	line("   must be complete and in order.")
	line("2. **One shim**: a pod under CRI whose containers stay while others come and go, which runs handlers of all kinds. A fifth of them belong to containers that")
	line("   come and go, the rest are trials (`lifecyclectl run`). Every handler must succeed and be counted once.")
	line("")
	line("The shim is **flat** if nothing has grown by more than the bound below, from the median of the first fifth of the samples after a warm-up (a tenth of the")
	line("handlers) to that of the last fifth. Samples are taken when the shim is quiet. Goroutines, threads, descriptors and heap (after a garbage collection) are")
	line("its own counters, which `lifecyclectl status -o json` shows too. A leak of one in a hundred handlers fails the run from 1,000 handlers on.")
	line("")
	b.WriteString(r.Tables())
	line("")
	line("## As data")
	line("")
	line("```json")
	b.Write(r.compact())
	line("```")
	return b.String()
}

// compact is JSON with a line for each sample, that a page is not a thousand lines long.
func (r *Result) compact() []byte {
	short := *r
	short.Shim.Samples = nil
	text, _ := json.MarshalIndent(short, "", " ") // numbers and texts
	samples := make([]string, len(r.Shim.Samples))
	for i, sample := range r.Shim.Samples {
		one, _ := json.Marshal(sample)
		samples[i] = "\n   " + string(one)
	}
	text = bytes.Replace(text, []byte(`"samples": null`), []byte(`"samples": [`+strings.Join(samples, ",")+"]"), 1)
	return append(text, '\n')
}

// fromPage reads the result out of a page.
func fromPage(page string) (*Result, error) {
	_, rest, _ := strings.Cut(page, "```json\n")
	text, _, ok := strings.Cut(rest, "```\n")
	if !ok {
		return nil, fmt.Errorf("the page has no data: run `make soak SOAK_PAGE=docs/endurance.md`")
	}
	r := &Result{}
	return r, json.Unmarshal([]byte(text), r)
}

// Tables of the result, for a terminal and for the page.
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
