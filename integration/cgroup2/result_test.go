package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// console is what a machine says whose tests pass, as its serial line gives it.
func console(lines ...string) string {
	all := []string{"cgroup2: machine: Linux 6.1.0, cgroup2fs with cpu memory"}
	for _, pkg := range packages {
		all = append(all, "cgroup2: begin: "+pkg)
		if pkg == packages[0] {
			all = append(all, lines...)
		}
		all = append(all, "=== RUN   TestA", "    --- PASS: TestA/b (0.10s)", "--- PASS: TestA (0.20s)", "PASS", "cgroup2: package: "+pkg+" 0 61")
	}
	return strings.Join(append(all, "cgroup2: end", ""), "\r\n")
}

func TestResult(t *testing.T) {
	passed := console()
	for name, test := range map[string]struct{ console, wrong string }{
		"all pass":              {passed, ""},
		"a test fails":          {console("    --- FAIL: TestX/y (1.00s)"), "failed: [TestX/y]"},
		"its program fails":     {strings.Replace(passed, packages[0]+" 0", packages[0]+" 2", 1), packages[0] + ": status 2"},
		"no test":               {strings.ReplaceAll(passed, "--- PASS", "--- SKIP"), "0 passed"},
		"a package is missing":  {strings.Replace(passed, "cgroup2: package: "+packages[1]+" 0 61", "", 1), packages[1] + " did not come to its end"},
		"a test does not end":   {strings.Replace(passed, "PASS\r", "=== RUN   TestX\r", 1), "failed: [TestX (did not end)]"},
		"something stays":       {strings.Replace(passed, "cgroup2: end", "cgroup2: left: /sys/fs/cgroup/lcs", 1), "left behind: /sys/fs/cgroup/lcs"},
		"the machine breaks":    {strings.Replace(passed, "cgroup2: end", "Kernel panic", 1), "the machine did not come to its end"},
		"it never said a thing": {"", "the machine did not come to its end"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			spoke := 0
			r := &result{out: &out, speaks: func() { spoke++ }}
			for _, piece := range strings.SplitAfter(test.console, "-") { // as it may come
				if n, err := fmt.Fprint(r, piece); err != nil || n != len(piece) {
					t.Fatalf("%d bytes of %d are written, %v", n, len(piece), err)
				}
			}
			err := r.err(false)
			if (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
				t.Errorf("%v, want one that says %q", err, test.wrong)
			}
			if got, want := strings.ReplaceAll(out.String(), "\r", ""), strings.ReplaceAll(test.console, "\r", ""); got != want || spoke != 1 {
				t.Errorf("of %q is passed on %q, spoke %d times", want, got, spoke)
			}
		})
	}
	r := &result{out: &bytes.Buffer{}}
	_, _ = fmt.Fprint(r, passed)
	for _, o := range r.packages {
		if o.Tests["TestA"].Passed != 2 || o.Wrong != "" {
			t.Errorf("%+v", o)
		}
	}
	_, _ = fmt.Fprintf(r, "cgroup2: begin: x\n--- PASS: TestA (0.20s)\ncgroup2: package: x 1 5\n")
	if last := r.packages[len(r.packages)-1]; last.Wrong != "its program ended with status 1" {
		t.Errorf("%+v", last)
	}
	if text := r.String(); !strings.Contains(text, "Linux 6.1.0") || !strings.Contains(text, "   2 passed, 0 failed, 1m1s") {
		t.Errorf("the summary is %q", text)
	}
}
