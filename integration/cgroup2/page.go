package main

import (
	"fmt"
	"strings"
	"time"
)

const pageHead = `# cgroup v2

` + "`make cgroup2`" + ` runs the integration tests on cgroup v2, whatever the machine has, in an emulated one: qemu without KVM, Debian 12 with its own kernel, systemd
as the init, and no cgroup v1. The tests are those of ` + "`make test`" + `, and so are the shim, containerd, runc and crun. The emulator is slow, so waits that only a
failure lets end are longer (` + "`LIFECYCLE_TEST_SLOWNESS`" + `); no assertion is weaker. The race detector is left to ` + "`make test`" + `. A test that fails, a package that does
not come to its end, and a cgroup that is left behind fail the run.

` + "```sh" + `
make deps-cgroup2 cgroup2       # as root; the first time it makes Debian with debootstrap (3 min). The tests take an hour on 2 idle processors
make cgroup2 RUN=Pause          # the tests that match
` + "```" + `

It ends in order on ^C, and with make: the machine is a process, and its disks are files that are removed once it runs.
`

// page returns the result as Markdown.
func (r *report) page() string {
	var b strings.Builder
	b.WriteString(pageHead)
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	r.results(line)
	line("\n## What shows it\n")
	line("| on cgroup v2 | tests, and how many passed in each |")
	line("|---|---|")
	for _, p := range points {
		var tests []string
		for _, test := range p.tests {
			tests = append(tests, test+": "+r.verdict(test).String())
		}
		line("| %s | %s |", p.what, strings.Join(tests, "; "))
	}
	leftOut(line)
	return b.String()
}

// results are the last ones, by run.
func (r *report) results(line func(string, ...any)) {
	line("\n## The last result\n")
	line("%s\n", r.summary())
	line("A test counts once, and those within it, such as one for each runtime, once more. Where parts were run again, each test stands with its last run.\n")
	line("| run | package | tests | with those within them | failed, or did not end | the package took |")
	line("|---|---|---|---|---|---|")
	for _, run := range r.Runs {
		for _, o := range run.Packages {
			passed, failed := o.count()
			if o.Wrong != "" {
				failed = append(failed, o.Wrong)
			}
			line("| %s, %s | `%s` | %d | %d passed | %s | %s |", run.Began.Format(time.DateOnly), run.Commit, o.Package, len(o.Tests), passed, list(failed), o.took())
		}
	}
	line("")
	for _, pkg := range packages {
		if tests := r.NotRun[pkg]; len(tests) > 0 {
			line("%s\n", wrap(fmt.Sprintf("**Not run** of `%s`, %d tests: %s.", pkg, len(tests), list(tests))))
		}
	}
	for i, run := range r.Runs {
		text := fmt.Sprintf("The machine of %s ran for %s", run.Commit, seconds(run.Seconds))
		if i == 0 || run.machine() != r.Runs[i-1].machine() {
			text += ": " + run.machine()
		}
		line("%s", wrap(text+"."))
	}
}

// wrap a paragraph's lines.
func wrap(text string) string {
	const width = 150
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		switch {
		case column == 0:
		case column+1+len(word) > width:
			b.WriteString("\n")
			column = 0
		default:
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	return b.String()
}

// summary says whether all is well.
func (r *report) summary() string {
	failed, left := 0, 0
	for _, run := range r.Runs {
		for _, o := range run.Packages {
			for _, v := range o.Tests {
				if len(v.Failed) > 0 || !v.ended() {
					failed++
				}
			}
			if o.Wrong != "" {
				failed++
			}
		}
	}
	for _, tests := range r.NotRun {
		left += len(tests)
	}
	if failed == 0 && left == 0 {
		return "Every test has passed."
	}
	return fmt.Sprintf("**Not whole**: of %d tests the last run failed or did not end, and %d have not been run.", failed, left)
}

func (m *machineRun) machine() string {
	return fmt.Sprintf("%s; emulated by %s, on %s", m.Machine, m.Emulator, m.Host)
}

func (o *outcome) took() string {
	if o.Seconds == 0 {
		return "– (ended before its end)"
	}
	return seconds(o.Seconds).String()
}

func (v *verdict) String() string {
	switch {
	case v == nil:
		return "not run"
	case !v.ended():
		return "did not end"
	case len(v.Failed) > 0:
		return "failed"
	}
	return fmt.Sprint(v.Passed)
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// leftOut is what plan.go leaves out.
func leftOut(line func(string, ...any)) {
	line("\n## Left out\n")
	line("| what | why |")
	line("|---|---|")
	for _, target := range targets {
		line("| in every test: %s | %s |", target.name, target.why)
	}
	for _, pkg := range packages {
		for _, test := range excluded[pkg] {
			line("| `%s`: %s | %s |", pkg, test.name, test.why)
		}
	}
	for _, pkg := range elsewhere {
		line("| `%s` | %s |", pkg.name, pkg.why)
	}
}
