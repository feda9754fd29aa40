package main

import (
	"strings"
	"testing"
)

// One run after the other: each test stands with its last result, and once.
func TestReport(t *testing.T) {
	pkg := packages[1]
	run := func(commit string, tests map[string]*verdict) *machineRun {
		return &machineRun{Commit: commit, Packages: []*outcome{{Package: pkg, Tests: tests}}}
	}
	passed, failed := &verdict{Passed: 3}, &verdict{Failed: []string{"TestB/x", "TestB"}}
	plan := map[string][]string{pkg: {"TestA", "TestB", "TestC"}}
	r := &report{}
	r.add(run("one", map[string]*verdict{"TestA": passed, "TestB": failed, "TestGone": passed}), plan)
	wantPage(t, r, "one | `"+pkg+"` | 2 | 3 passed | TestB, TestB/x |", "**Not run** of `"+pkg+"`, 1 tests: TestC.", "**Not whole**: of 1 tests the last run failed or did not end, and 1 have")
	r.add(run("two", map[string]*verdict{"TestB": passed}), plan)
	wantPage(t, r, "one | `"+pkg+"` | 1 | 3 passed | none |", "two | `"+pkg+"` | 1 | 3 passed | none |", ": TestC.")
	r.add(run("three", map[string]*verdict{"TestA": passed, "TestC": passed}), plan)
	wantPage(t, r, "Every test has passed.", "two | `"+pkg+"` | 1 |", "three | `"+pkg+"` | 2 | 6 passed |")
	if text := r.page(); strings.Contains(text, "one | `") || strings.Contains(text, "Not run") {
		t.Errorf("the page still has what was run again:\n%s", text)
	}
	path := t.TempDir() + "/page.md"
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	again, err := readReport(path)
	if err != nil || again.page() != r.page() {
		t.Errorf("read again, it is another: %v", err)
	}
}

func wantPage(t *testing.T, r *report, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if text := r.page(); !strings.Contains(text, part) {
			t.Errorf("the page does not have %q:\n%s", part, text)
		}
	}
}
