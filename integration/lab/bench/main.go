// Command bench measures what handlers cost, beside the other ways of running a command in a container, and what a
// container without handlers costs, beside the stock shim. docs/measurements.md#performance has the method and the last result.
//
//	make bench        or, with bin/ built:        go run -C integration ./lab/bench
//
// It ends with an error when something does not work, never because something is slow. It needs root, starts a containerd
// separately, and leaves nothing behind.
//
// site.go is the place with its containers, life.go and ways.go what is measured in a round, scene.go the circumstances,
// memory.go and drain.go measure what has no rounds. What follows from the values is in package report.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/lab/bench/report"
)

// tooLong bounds all of it. An idle machine takes 10 minutes.
const tooLong = time.Hour

type flags struct {
	bin, rows, out string
	rounds         int
	quick          bool
}

func main() {
	var f flags
	flag.StringVar(&f.bin, "bin", "../bin", "folder with containerd, ctr, runc and the shims")
	flag.IntVar(&f.rounds, "rounds", 25, "rounds on the idle machine; slower scenes take a part of them")
	flag.StringVar(&f.rows, "rows", "", "measure only what gives rows named so, as SCENE: RATIO (a regular expression)")
	flag.StringVar(&f.out, "out", "../dist/bench.txt", "file for the results, for benchstat")
	flag.BoolVar(&f.quick, "quick", false, "few rounds, few pods: to see that it works")
	flag.Parse()
	if err := run(f); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(f flags) error {
	match, err := regexp.Compile(f.rows)
	if err != nil {
		return fmt.Errorf("-rows: %w", err)
	}
	if f.rounds < 2 {
		return errors.New("-rounds: two at least, or there is no spread")
	}
	if f.quick {
		f.rounds = min(f.rounds, 3)
	}
	if os.Geteuid() != 0 {
		return errors.New("containerd needs root: run `sudo make bench`")
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, tooLong, fmt.Errorf("the benchmark took longer than %v", tooLong))
	defer cancel()
	r, err := measure(ctx, f, match)
	if err != nil {
		return err
	}
	if err := write(r, f.out); err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "\nMedians of the ratios of single rounds; lower is better.\n\n")
	if err := r.WriteText(os.Stdout); err != nil {
		return err
	}
	fmt.Fprintf(os.Stdout, "\nEvery value is in %s.\n", f.out)
	return nil
}

func write(r *report.Report, name string) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	return r.WriteBenchmarks(out)
}

// measure sets the site up, measures all scenes that are wanted, and takes the site down in any case.
func measure(ctx context.Context, f flags, match *regexp.Regexp) (_ *report.Report, err error) {
	s, err := newSite(ctx, f.bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r := &report.Report{}
	if r.Machine, err = s.machine(ctx); err != nil {
		return nil, err
	}
	for _, plan := range plans(f.rounds, f.quick) {
		if !report.Wanted(plan.name, match.MatchString) {
			continue
		}
		began := time.Now()
		s.say("== %s: %s", plan.name, plan.title)
		scene := &report.Scene{Name: plan.name}
		if err := plan.measure(ctx, s, plan, scene); err != nil {
			return nil, fmt.Errorf("%s: %w", plan.name, errors.Join(err, context.Cause(ctx)))
		}
		r.Scenes = append(r.Scenes, scene)
		s.say("   %d rounds in %v", scene.Rounds(), time.Since(began).Round(time.Second))
	}
	if len(r.Scenes) == 0 {
		return nil, errors.New("-rows names no row: they look like \"paced: no-op exec handler / crun exec\"")
	}
	r.Machine["load-after"], err = loadAverage()
	return r, err
}
