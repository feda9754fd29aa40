package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// report is the last result of each test, as the page has it: of one run of all tests, or of several that each had a part.
type report struct {
	Runs []*machineRun `json:"runs"`
	// NotRun are the tests without a result, by package.
	NotRun map[string][]string `json:"notRun"`
}

// machineRun is one life of the machine, with those results that no later one has again.
type machineRun struct {
	Began    time.Time `json:"began"`
	Commit   string    `json:"commit"`
	Host     string    `json:"host"`
	Emulator string    `json:"emulator"`
	// Machine is what the emulated one says of itself.
	Machine string `json:"machine"`
	// Seconds that it ran.
	Seconds  int        `json:"seconds"`
	Packages []*outcome `json:"packages"`
}

// newRun begins one of what is in the repository now.
func newRun(ctx context.Context, repository string) *machineRun {
	return &machineRun{
		Began: time.Now().UTC().Truncate(time.Second), Host: harness.Machine(),
		Commit:   firstLine(exec.CommandContext(ctx, "git", "-C", repository, "describe", "--always", "--dirty", "--abbrev=10")),
		Emulator: firstLine(exec.CommandContext(ctx, "qemu-system-x86_64", "--version")),
	}
}

func firstLine(cmd *exec.Cmd) string {
	out, err := cmd.Output()
	if err != nil {
		return "unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}

// add a run. plan are the tests that there are, by package: no other keeps a result.
func (r *report) add(now *machineRun, plan map[string][]string) {
	has := func(pkg, test string) bool {
		return slices.ContainsFunc(now.Packages, func(o *outcome) bool { return o.Package == pkg && o.Tests[test] != nil })
	}
	for _, run := range r.Runs {
		for _, o := range run.Packages {
			maps.DeleteFunc(o.Tests, func(test string, _ *verdict) bool { return has(o.Package, test) })
		}
	}
	r.Runs = append(r.Runs, now)
	r.NotRun = map[string][]string{}
	for pkg, tests := range plan {
		left := slices.Clone(tests)
		for _, run := range r.Runs {
			for _, o := range run.Packages {
				if o.Package == pkg {
					maps.DeleteFunc(o.Tests, func(test string, _ *verdict) bool { return !slices.Contains(tests, test) })
					left = slices.DeleteFunc(left, func(test string) bool { return o.Tests[test] != nil })
				}
			}
		}
		if len(left) > 0 {
			r.NotRun[pkg] = left
		}
	}
	for _, run := range r.Runs {
		run.Packages = slices.DeleteFunc(run.Packages, func(o *outcome) bool { return len(o.Tests) == 0 })
	}
	r.Runs = slices.DeleteFunc(r.Runs, func(run *machineRun) bool { return len(run.Packages) == 0 })
}

// verdict on a test; nil where there is none.
func (r *report) verdict(test string) *verdict {
	for _, run := range r.Runs {
		for _, o := range run.Packages {
			if v := o.Tests[test]; v != nil {
				return v
			}
		}
	}
	return nil
}

// dataOf a page is beside it.
func dataOf(page string) string { return strings.TrimSuffix(page, ".md") + ".json" }

// readReport of a page; an empty one where there is none.
func readReport(page string) (*report, error) {
	r := &report{}
	text, err := os.ReadFile(dataOf(page))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	return r, json.Unmarshal(text, r)
}

// write the page, and its data.
func (r *report) write(page string) error {
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(dataOf(page), append(text, '\n'), 0o644), os.WriteFile(page, []byte(r.page()), 0o644))
}
