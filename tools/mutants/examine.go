package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// workers run tests at a time.
const workers = 2

// examiner finds out which mutants of a package survive.
type examiner struct {
	builder  builder
	sandbox  sandbox
	original []byte // the binary with all mutants
	all      []*mutant
	// explained are the keys of mutants that should survive: their death is doubted once.
	explained map[string]*explanation
	times     map[string]time.Duration // of the tests, each by itself
	whole     time.Duration            // of all of them, at full length
	options   options
}

func examine(ctx context.Context, root string, c choice, explained map[string]*explanation, options options) (*report, error) {
	all, p, err := load(root, c)
	if err != nil {
		return nil, err
	}
	part := c.file != "" || options.match != ""
	if all, err = matching(all, options.match); err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	x := &examiner{
		builder: builder{root: root, dir: c.dir, name: p.Name, temp: temp, count: len(all)},
		sandbox: sandbox{ctx: ctx, dir: filepath.Join(root, c.dir)}, all: all, explained: explained, options: options, times: map[string]time.Duration{},
	}
	binary := filepath.Join(temp, "all.test")
	if err := x.builder.together(all, binary); err != nil {
		return nil, err
	}
	if x.original, err = os.ReadFile(binary); err != nil {
		return nil, err
	}
	for _, step := range []func() error{x.baseline, x.trace, x.judgeAll} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return &report{choice: c, part: part, all: all, explained: explained}, nil
}

// matching are those whose keys the expression matches, numbered anew.
func matching(all []*mutant, expression string) ([]*mutant, error) {
	matches, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(m *mutant) bool { return !matches.MatchString(m.key()) })
	for i, m := range all {
		m.id = i + 1
	}
	return all, nil
}

// baseline: without a mutant the tests pass.
func (x *examiner) baseline() error {
	copied, err := newCopy(x.original, filepath.Join(x.builder.temp, "baseline.test"))
	if err != nil {
		return err
	}
	began := time.Now()
	if ok, output := x.sandbox.passes(copied.path, ".", x.options.quick, 10*time.Minute); !ok {
		return fmt.Errorf("the tests fail without any mutant:\n%s", output)
	}
	x.whole = time.Since(began)
	return nil
}

// trace finds out which tests reach which mutants, and how long they take. It only saves time: what survives the tests that
// reach it is tried with all.
func (x *examiner) trace() error {
	copied, err := newCopy(x.original, filepath.Join(x.builder.temp, "trace.test"))
	if err != nil {
		return err
	}
	file := copied.path + ".reached"
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		return err
	}
	if err := copied.choose(0, file); err != nil {
		return err
	}
	ok, output := x.sandbox.passes(copied.path, ".", true, 10*time.Minute, "-test.v", "-test.parallel=1")
	if !ok {
		return fmt.Errorf("the tests fail without any mutant:\n%s", output)
	}
	for _, match := range testTook.FindAllStringSubmatch(output, -1) {
		seconds, err := strconv.ParseFloat(match[2], 64)
		if err != nil {
			return err
		}
		x.times[match[1]] = time.Duration(seconds * float64(time.Second))
	}
	reached, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	x.noteReached(string(reached))
	return nil
}

var testTook = regexp.MustCompile(`(?m)^--- PASS: (\S+) \(([0-9.]+)s\)`)

// noteReached reads the file that the tests have written: a test's name, and then the numbers of the mutants that are reached.
// What stands before the first name is reached by all.
func (x *examiner) noteReached(lines string) {
	test := ""
	for _, line := range strings.Fields(lines) {
		id, err := strconv.Atoi(line)
		switch {
		case err != nil:
			test = line
		case test != "" && id > 0 && id <= len(x.all):
			m := x.all[id-1]
			if !slices.Contains(m.reached, test) {
				m.reached = append(m.reached, test)
			}
		}
	}
}

func exactly(names ...string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(name)
	}
	return "^(" + strings.Join(quoted, "|") + ")$"
}

// parallel runs f in each worker, each with its own binary.
func (x *examiner) parallel(f func(worker int, copied *binaryCopy) error) error {
	errs := make(chan error, workers)
	for worker := range workers {
		go func() {
			copied, err := newCopy(x.original, filepath.Join(x.builder.temp, fmt.Sprintf("worker%d.test", worker)))
			if err == nil {
				err = f(worker, copied)
			}
			errs <- err
		}()
	}
	var first error
	for range workers {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (x *examiner) judgeAll() error {
	queue := make(chan *mutant, len(x.all))
	for _, m := range x.all {
		queue <- m
	}
	close(queue)
	return x.parallel(func(worker int, copied *binaryCopy) error {
		alone := filepath.Join(x.builder.temp, fmt.Sprintf("alone%d.test", worker))
		for m := range queue {
			if err := x.sandbox.ctx.Err(); err != nil {
				return err
			}
			if err := x.judge(m, copied, alone); err != nil {
				return err
			}
			if x.options.verbose {
				fmt.Fprintf(os.Stderr, "%d of %d: %s:%d %s: %s\n", m.id, len(x.all), filepath.Base(m.file.path), m.line(), m.key(), m.state)
			}
		}
		return nil
	})
}

// judge finds the result of one mutant.
func (x *examiner) judge(m *mutant, copied *binaryCopy, alone string) error {
	binary := copied.path
	if m.before == "" {
		if m.plain == "" || !x.builder.alone(m, alone) {
			m.state = notCompiled
			return nil
		}
		binary = alone
	} else if err := copied.choose(m.id, ""); err != nil {
		return err
	}
	dies := func() bool { return x.dies(m, binary) }
	if dies() {
		m.state = killed
		// A test may fail for another reason, on a busy machine.
		if doubtful := len(m.reached) == 0 && m.before != "" || x.explained[m.key()] != nil; doubtful && !dies() {
			m.state = survived
		}
	}
	return nil
}

// dies runs the tests that reach the mutant, the quick ones first, and at last all of them.
func (x *examiner) dies(m *mutant, binary string) bool {
	first := m.reached
	if m.before == "" { // nothing notes who reaches a constant
		first = slices.Collect(maps.Keys(x.times))
	}
	for _, tests := range x.stages(first) {
		limit := 10 * time.Second
		for _, name := range tests {
			limit += 5 * x.times[name]
		}
		if x.fails(binary, exactly(tests...), true, limit) {
			return true
		}
	}
	if x.options.quick && len(first) > 0 {
		return false
	}
	return x.fails(binary, ".", x.options.quick, 10*time.Second+5*x.whole)
}

// fails runs tests. Where their time is up they are given more, once: the machine may be busy.
func (x *examiner) fails(binary, match string, short bool, limit time.Duration) bool {
	ok, output := x.sandbox.passes(binary, match, short, limit)
	if !ok && (output == "" || strings.Contains(output, "panic: test timed out")) {
		ok, _ = x.sandbox.passes(binary, match, short, 4*limit)
	}
	return !ok
}

// stages are the tests in the order of their time, in groups each of which takes about as long as all before it.
func (x *examiner) stages(tests []string) [][]string {
	tests = slices.Clone(tests)
	slices.SortFunc(tests, func(a, b string) int { return cmp.Compare(x.times[a], x.times[b]) })
	var all [][]string
	var before, group time.Duration
	for i, name := range tests {
		if i == 0 || group+x.times[name] > max(before, time.Second/2) {
			all = append(all, nil)
			before, group = before+group, 0
		}
		group += x.times[name]
		all[len(all)-1] = append(all[len(all)-1], name)
	}
	return all
}
