package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// result is what the machine says of itself and its tests. It is the writer that its console goes to, and passes everything on.
type result struct {
	out io.Writer
	// speaks is called at the machine's first word.
	speaks func()

	line     []byte
	machine  string
	packages []outcome
	now      outcome // of the package that runs
	left     []string
	ended    bool
}

// outcome of a package: how many of its tests, those within tests included, passed, and which failed.
type outcome struct {
	pkg    string
	passed int
	failed []string
	status string // of its program
	took   time.Duration
}

func (r *result) Write(p []byte) (int, error) {
	if r.speaks != nil {
		r.speaks()
		r.speaks = nil
	}
	for _, b := range p {
		if b != '\n' {
			r.line = append(r.line, b)
			continue
		}
		r.note(string(bytes.TrimRight(r.line, "\r")))
		r.line = r.line[:0]
	}
	if _, err := r.out.Write(bytes.ReplaceAll(p, []byte("\r"), nil)); err != nil {
		return 0, err
	}
	return len(p), nil // fewer would end the copying
}

// note what testing, and guest/run, say in a line of its own.
func (r *result) note(line string) {
	if rest, ok := strings.CutPrefix(line, "cgroup2: "); ok {
		what, value, _ := strings.Cut(rest, ": ")
		r.noteMachine(what, value)
		return
	}
	verdict, name, found := strings.Cut(strings.TrimLeft(line, " "), ": ")
	name, _, _ = strings.Cut(name, " ")
	switch {
	case found && verdict == "--- PASS":
		r.now.passed++
	case found && verdict == "--- FAIL":
		r.now.failed = append(r.now.failed, name)
	}
}

func (r *result) noteMachine(what, value string) {
	switch what {
	case "machine":
		r.machine = value
	case "package":
		var seconds int
		_, err := fmt.Sscan(value, &r.now.pkg, &r.now.status, &seconds)
		if err != nil {
			r.now.status = value
		}
		r.now.took = time.Duration(seconds) * time.Second
		r.packages = append(r.packages, r.now)
		r.now = outcome{}
	case "left":
		r.left = append(r.left, value)
	case "end":
		r.ended = true
	}
}

// err says why the run is no success: every package must have been run to its end, and passed. Only where a part was asked for may one
// have no test in it.
func (r *result) err(part bool) error {
	var wrong []string
	for _, o := range r.packages {
		if o.status != "0" || len(o.failed) > 0 || o.passed == 0 && !part {
			wrong = append(wrong, fmt.Sprintf("%s: status %s, %d passed, failed: %v", o.pkg, o.status, o.passed, o.failed))
		}
	}
	for _, pkg := range packages {
		if !slices.ContainsFunc(r.packages, func(o outcome) bool { return o.pkg == pkg }) {
			wrong = append(wrong, pkg+" did not come to its end")
		}
	}
	for _, left := range r.left {
		wrong = append(wrong, "left behind: "+left)
	}
	if !r.ended {
		wrong = append(wrong, "the machine did not come to its end")
	}
	if len(wrong) > 0 {
		return fmt.Errorf("cgroup v2:\n%s", strings.Join(wrong, "\n"))
	}
	return nil
}

// String is the summary.
func (r *result) String() string {
	text := r.machine + "\n"
	for _, o := range r.packages {
		text += fmt.Sprintf("%-22s %4d passed, %d failed, %s\n", o.pkg, o.passed, len(o.failed), o.took)
	}
	return text
}
