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
	packages []*outcome // one more than have ended, while one runs
	left     []string
	ended    bool
}

// outcome of a package.
type outcome struct {
	Package string `json:"package"`
	// Tests that have begun, by their names.
	Tests map[string]*verdict `json:"tests"`
	// Status of its program; empty until it ends. Seconds that it took.
	Status  string `json:"status"`
	Seconds int    `json:"seconds"`
	// Wrong is what is wrong beside tests that failed: something was left behind, or the program broke.
	Wrong string `json:"wrong,omitempty"`
}

// verdict on a test: how many passed, itself and those within it, and which failed. Of one that did not end there is neither.
type verdict struct {
	Passed int      `json:"passed"`
	Failed []string `json:"failed,omitempty"`
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
	if name, ok := strings.CutPrefix(line, "=== RUN   "); ok && !strings.Contains(name, "/") {
		r.verdict(name)
		return
	}
	said, name, found := strings.Cut(strings.TrimLeft(line, " "), ": ")
	name, _, _ = strings.Cut(name, " ")
	if found && (said == "--- PASS" || said == "--- FAIL") {
		r.noteTest(name, said == "--- PASS")
	}
}

func (r *result) noteTest(name string, passed bool) {
	top, _, _ := strings.Cut(name, "/")
	v := r.verdict(top)
	if passed {
		v.Passed++
	} else {
		v.Failed = append(v.Failed, name)
	}
}

// verdict on a test of the package that runs; the machine says each package's name before.
func (r *result) verdict(test string) *verdict {
	if len(r.packages) == 0 {
		return &verdict{}
	}
	tests := r.packages[len(r.packages)-1].Tests
	if tests[test] == nil {
		tests[test] = &verdict{}
	}
	return tests[test]
}

func (r *result) noteMachine(what, value string) {
	switch what {
	case "machine":
		r.machine = value
	case "begin":
		r.packages = append(r.packages, &outcome{Package: value, Tests: map[string]*verdict{}})
	case "package":
		for _, o := range r.packages {
			if rest, ok := strings.CutPrefix(value, o.Package+" "); ok {
				o.end(rest)
			}
		}
	case "left":
		r.left = append(r.left, value)
	case "end":
		r.ended = true
	}
}

func (v *verdict) ended() bool { return v.Passed > 0 || len(v.Failed) > 0 }

// end of a package: the status of its program, and the seconds that it took.
func (o *outcome) end(said string) {
	if _, err := fmt.Sscan(said, &o.Status, &o.Seconds); err != nil {
		o.Status = said
	}
	if _, failed := o.count(); o.Status != "0" && len(failed) == 0 {
		o.Wrong = "its program ended with status " + o.Status
	}
}

// count of a package's tests, those within tests included, that passed, and which failed.
func (o *outcome) count() (passed int, failed []string) {
	for name, v := range o.Tests {
		passed, failed = passed+v.Passed, append(failed, v.Failed...)
		if v.ended() {
			continue
		}
		failed = append(failed, name+" (did not end)")
	}
	slices.Sort(failed)
	return passed, failed
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// err says why the run is no success: every package must have been run to its end, and passed. Only where a part was asked for may one
// have no test in it.
func (r *result) err(part bool) error {
	var wrong []string
	for _, pkg := range packages {
		i := slices.IndexFunc(r.packages, func(o *outcome) bool { return o.Package == pkg && o.Status != "" })
		if i < 0 {
			wrong = append(wrong, pkg+" did not come to its end")
			continue
		}
		o := r.packages[i]
		if passed, failed := o.count(); o.Status != "0" || len(failed) > 0 || passed == 0 && !part {
			wrong = append(wrong, fmt.Sprintf("%s: status %s, %d passed, failed: %v", pkg, o.Status, passed, failed))
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
		passed, failed := o.count()
		text += fmt.Sprintf("%-22s %4d passed, %d failed, %s\n", o.Package, passed, len(failed), seconds(o.Seconds))
	}
	return text
}
