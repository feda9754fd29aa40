package convert

import (
	"fmt"
	"strings"
	"testing"
)

// manifestOf returns a pod with n containers and a line of annotations for each.
func manifestOf(n int, annotation, general string) string {
	var text strings.Builder
	text.WriteString("apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    a: b\n" + general)
	for i := range n {
		if annotation != "" {
			fmt.Fprintf(&text, annotation, i)
		}
	}
	text.WriteString("spec:\n  containers:\n")
	for i := range n {
		fmt.Fprintf(&text, "  - name: c%d\n", i)
	}
	return text.String()
}

// FAULTS A3: validate copied all annotations for each container, read a general
// annotation once for each, and named all containers for each key of a stranger. All
// that it allocates grows with the manifest, and no faster.
func TestValidateIsLinear(t *testing.T) {
	const n, times = 300, 4
	for name, of := range map[string]func(n int) string{
		"own annotations": func(n int) string {
			return manifestOf(n, "    c%d.lifecycle-shim.io/lifecycle: 'preStop: {sleep: {seconds: 1}}'\n", "")
		},
		"a general annotation": func(n int) string {
			return manifestOf(n, "", "    lifecycle-shim.io/lifecycle: 'preStop: {exec: {command: [a"+strings.Repeat(", b", n)+"]}}'\n")
		},
		"strangers": func(n int) string {
			return manifestOf(n, "    d%d.lifecycle-shim.io/lifecycle: 'preStop: {sleep: {seconds: 1}}'\n", "")
		},
		"unknown keys": func(n int) string { return manifestOf(n, "    lifecycle-shim.io/x%d: ''\n", "") },
		"unknown keys of containers": func(n int) string {
			return manifestOf(n, "    c%d.lifecycle-shim.io/x: ''\n", "    lifecycle-shim.io/preStop: 'sleep: {seconds: 1}'\n")
		},
		"annotations alone": func(n int) string {
			var text strings.Builder
			for i := range n {
				fmt.Fprintf(&text, "c%d.lifecycle-shim.io/lifecycle: 'preStop: {sleep: {seconds: 1}}'\n", i)
			}
			return text.String()
		},
	} {
		t.Run(name, func(t *testing.T) {
			cost := func(n int) uint64 {
				text := []byte(of(n))
				return allocated(func() { Validate(text, inClass) })
			}
			small, large := cost(n), cost(times*n)
			if large > 2*times*small {
				t.Errorf("%d containers cost %d bytes, and %d cost %d", n, small, times*n, large)
			}
		})
	}
}

// TestEditsKeysTwiceAndOldLineEnds: neither is a reason to write a document anew.
func TestEditsKeysTwiceAndOldLineEnds(t *testing.T) {
	const (
		head = "apiVersion: v1\nkind: Pod\nmetadata:\n  annotations: {}\n  name: p\nspec:\n  runtimeClassName: lifecycle\n  containers:\n  - name: web # its name\n"
		told = `  annotations: {web.lifecycle-shim.io/lifecycle: '{"preStop":{"sleep":{"seconds":1}},"terminationGracePeriodSeconds":30}'}`
		once = "    lifecycle:\n      preStop:\n        sleep: {seconds: 1}\n"
	)
	want := strings.Replace(head, "  annotations: {}", told, 1)
	signal := strings.Replace(told, `,"termination`, `,"stopSignal":"SIGINT","termination`, 1)
	for name, test := range map[string]struct{ text, want string }{
		"a lifecycle twice": {head + once + "    image: n\n" + once, want + "    image: n\n"},
		"a preStop twice": {
			head + "    lifecycle:\n      preStop: {sleep: {seconds: 2}}\n      stopSignal: SIGINT\n      preStop: {sleep: {seconds: 1}}\n",
			strings.Replace(head, "  annotations: {}", signal, 1) + "    lifecycle:\n      stopSignal: SIGINT\n",
		},
		"in braces": {
			head + "    x: {a: b}\n  - {name: b, lifecycle: {}, image: n, lifecycle: {preStop: {sleep: {seconds: 1}}}}\n",
			strings.Replace(want, "web.l", "b.l", 1) + "    x: {a: b}\n  - {name: b, image: n}\n",
		},
		"CR": {
			strings.ReplaceAll(head+once+"    image: n\n", "\n", "\r"),
			strings.ReplaceAll(want+"    image: n\n", "\n", "\r"),
		},
		"CR, without annotations": {
			"apiVersion: v1\rkind: Pod\rspec:\r  containers:\r  - name: web\r    lifecycle: {preStop: {sleep: {seconds: 1}}}\r",
			"apiVersion: v1\rkind: Pod\rmetadata:\r  annotations:\r    " + strings.TrimSuffix(strings.TrimPrefix(told, "  annotations: {"), "}") +
				"\rspec:\r  runtimeClassName: lifecycle\r  containers:\r  - name: web\r",
		},
	} {
		t.Run(name, func(t *testing.T) {
			result, report := Stream([]byte(test.text), inClass)
			if string(result) != test.want || len(report.Refusals) > 0 {
				t.Errorf("got %q, %v\nwant %q", result, report, test.want)
			}
			for _, warning := range report.Warnings {
				if strings.Contains(warning.Text, "rewritten") {
					t.Error(warning)
				}
			}
		})
	}
}

// TestLineOfContainerWithoutName: its place is named and has a line, as it has no name to
// be found by.
func TestLineOfContainerWithoutName(t *testing.T) {
	const head = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: web\n  - image: n\n"
	for name, test := range map[string]struct {
		text, field string
		line        int
	}{
		"a handler":   {head + "    lifecycle:\n      preStop: {sleep: {seconds: 1}}\n", "spec.containers[1].name", 7},
		"a wrong key": {head + "    lifecycle:\n      prestop: {sleep: {seconds: 1}}\n", "spec.containers[1].lifecycle.prestop", 9},
		"misplaced":   {head + "    preStop: {sleep: {seconds: 1}}\n", "spec.containers[1].preStop", 8},
		"a list":      {head + "    lifecycle: []\n", "spec.containers[1].lifecycle", 8},
	} {
		t.Run(name, func(t *testing.T) {
			_, report := Stream([]byte(test.text), inClass)
			if len(report.Refusals) != 1 || report.Refusals[0].Field != test.field || report.Refusals[0].Line != test.line {
				t.Errorf("got %+v", report.Refusals)
			}
		})
	}
}
