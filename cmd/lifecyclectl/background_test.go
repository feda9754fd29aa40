package main

import (
	"io"
	"strings"
	"testing"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// What a handler has left in the background is shown for as long as it holds an output.
func TestBackgroundIsShown(t *testing.T) {
	run := &lifecyclev1.HandlerRun{Handler: "postStart", Type: "exec", Result: "Succeeded", Output: "started\n"}
	places := []place{{"default", &lifecyclev1.ContainerStatus{Id: "web", Phase: "Running", Runs: []*lifecyclev1.HandlerRun{run}}}}
	print := func(to func(io.Writer) error) string {
		t.Helper()
		var text strings.Builder
		if err := to(&text); err != nil {
			t.Fatal(err)
		}
		return text.String()
	}
	for count, want := range map[uint32]string{0: "Succeeded  ", 2: "Succeeded (2 in background)  "} {
		run.BackgroundOutputs = count
		table := print(func(out io.Writer) error { return printTable(out, nil, places) })
		if !strings.Contains(table, want) {
			t.Errorf("%d outputs: the table is %q", count, table)
		}
		logs := print(func(out io.Writer) error { return printRun(out, run) })
		if strings.Contains(logs, "left in the background still has its output open") != (count > 0) {
			t.Errorf("%d outputs: the logs are %q", count, logs)
		}
	}
}
