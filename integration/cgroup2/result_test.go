package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// console is what a machine prints whose tests pass, as its serial line gives it.
func console(lines ...string) string {
	all := []string{"cgroup2: machine: Linux 6.1.0, cgroup2fs with cpu memory"}
	for _, pkg := range packages {
		all = append(all, "cgroup2: begin: "+pkg)
		if pkg == packages[0] {
			all = append(all, lines...)
		}
		all = append(all, "\x16=== RUN   TestA", "\x16--- PASS: TestA (0.20s)", "\x16PASS", "cgroup2: package: "+pkg+" 0 61")
	}
	return strings.Join(append(all, "cgroup2: end", ""), "\r\n")
}

func TestResult(t *testing.T) {
	passed := console()
	for name, test := range map[string]struct{ console, wrong string }{
		"all pass":             {passed, ""},
		"its program fails":    {strings.Replace(passed, packages[0]+" 0", packages[0]+" 2", 1), packages[0] + " exited with status 2"},
		"a package is missing": {strings.Replace(passed, "cgroup2: package: "+packages[1]+" 0 61", "", 1), packages[1] + " did not finish"},
		"something stays":      {strings.Replace(passed, "cgroup2: end", "cgroup2: left: /sys/fs/cgroup/lcs", 1), "left behind: /sys/fs/cgroup/lcs"},
		"the machine breaks":   {strings.Replace(passed, "cgroup2: end", "Kernel panic", 1), "the machine did not finish"},
		"it prints nothing":    {"", "the machine did not finish"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			spoke := 0
			r := &result{out: &out, speaks: func() { spoke++ }}
			for _, piece := range strings.SplitAfter(test.console, "-") { // as it may come
				if n, err := fmt.Fprint(r, piece); err != nil || n != len(piece) {
					t.Fatalf("wrote %d of %d bytes, %v", n, len(piece), err)
				}
			}
			err := r.err()
			if (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
				t.Errorf("got %v, want an error with %q", err, test.wrong)
			}
			want := strings.NewReplacer("\r", "", "\x16", "").Replace(test.console)
			if out.String() != want || spoke != 1 {
				t.Errorf("passed on %q, want %q; spoke %d times, want once", out.String(), want, spoke)
			}
		})
	}
}

// TestEvents: test2json finds the packages and their tests in the console's text, also one that did not end.
func TestEvents(t *testing.T) {
	r := &result{out: &bytes.Buffer{}}
	fmt.Fprint(r, console("\x16=== RUN   TestX", "\x16--- FAIL: TestX (0.10s)"), "cgroup2: begin: x\r\n\x16=== RUN   TestB\r\n")
	events, err := r.events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[event]bool{}
	for line := range bytes.Lines(events) {
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatal(err)
		}
		got[e] = true
	}
	for _, want := range []event{
		{"fail", packages[0], "TestX"}, {"pass", packages[0], "TestA"}, {"pass", packages[1], "TestA"}, {"run", "x", "TestB"},
	} {
		if !got[want] {
			t.Errorf("there is no event %+v in:\n%s", want, events)
		}
	}
	if err := shown(events); err == nil || !strings.Contains(err.Error(), points[0].tests[0]+" has not passed") {
		t.Errorf("got %v, want an error with the test that shows the first point", err)
	}
}
