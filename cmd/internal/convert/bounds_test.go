package convert

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// allocated returns how many bytes a call allocates in all, which bounds its memory.
func allocated(call func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	call()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestA11Aliases: FAULTS A11. 110 KB with 3,000 aliases of one text of 100 KB would be 300
// MB. They are refused before anything writes them out, by convert and by validate.
func TestA11Aliases(t *testing.T) {
	const most = 32 << 20
	long := "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    lifecycle: {preStop: {exec: {command: [&x " + strings.Repeat("y", 100_000) + "]}}}\n    args: [" + strings.Repeat("*x,", 3000) + "]\n"
	merged := "lifecycle: x\na: &a {" + keys(1000) + "}\nb: &b {<<: [" + strings.Repeat("*a,", 1000) + "]}\nc: [" + strings.Repeat("*b,", 1000) + "]\n"
	for name, text := range map[string]string{"one long text": long, "merge keys": merged} {
		t.Run(name, func(t *testing.T) {
			for what, run := range map[string]func() *Report{
				"convert":  func() *Report { _, report := Stream([]byte(text), inClass); return report },
				"validate": func() *Report { return Validate([]byte(text), inClass) },
			} {
				var report *Report
				if got := allocated(func() { report = run() }); got > most {
					t.Errorf("%s takes %d bytes", what, got)
				}
				if len(report.Refusals) != 1 || !strings.Contains(report.Refusals[0].Text, "written out") || report.Refusals[0].Line == 0 {
					t.Errorf("%s: got %.300v", what, report.Refusals)
				}
			}
		})
	}
}

// TestA11Keys: FAULTS A11, A1. 10 KB of keys that are there twice, in an annotation, cost
// nothing, and are one problem.
func TestA11Keys(t *testing.T) {
	const most = 32 << 20
	var text strings.Builder
	text.WriteString("apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  annotations:\n    a.lifecycle-shim.io/lifecycle: |\n")
	for range 3000 {
		text.WriteString("      a:\n")
	}
	text.WriteString("spec: {runtimeClassName: lifecycle, containers: [{name: a}]}\n")
	var report *Report
	if got := allocated(func() { report = Validate([]byte(text.String()), inClass) }); got > most {
		t.Errorf("it takes %d bytes", got)
	}
	if len(report.Refusals) != 1 || len(report.Refusals[0].Text) > 1000 || report.Refusals[0].Line != 6 {
		t.Errorf("got %d refusals: %.500v", len(report.Refusals), report.Refusals)
	}
}

func keys(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "k%d: v, ", i)
	}
	return text.String()
}

// stream is one of at least so many bytes, of charts as they are: a pod template in eight
// objects, most of them with handlers if dense.
func stream(size int, dense bool) []byte {
	const deployment = `# Source: chart/templates/deployment-%[1]d.yaml
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web-%[1]d
  labels: {app.kubernetes.io/name: web, app.kubernetes.io/instance: "%[1]d"}
spec:
  replicas: 2
  selector:
    matchLabels: {app: web-%[1]d}
  template:
    metadata:
      labels: {app: web-%[1]d}
      annotations:
        checksum/config: 6b3e9f6f0f4b5d1c6c1a4f7a1c7f6f0f4b5d1c6c1a4f7a1c7f
    spec:
      terminationGracePeriodSeconds: 60
      containers:
        - name: web
          image: "registry.example.org/web:1.%[1]d"
          env:
            - name: LOG_LEVEL
              value: info
          resources:
            requests: {cpu: 100m, memory: 128Mi}
%[2]s          ports:
            - {name: http, containerPort: 8080}
---
`
	const lifecycle = "          lifecycle:\n            preStop:\n              exec:\n                command: [sh, -c, \"sleep 5\"]\n"
	const config = `# Source: chart/templates/config-%[1]d.yaml
apiVersion: v1
kind: ConfigMap
metadata:
  name: config-%[1]d
data:
  run.sh: |
    #!/bin/sh
    set -eu
    exec web --listen :8080 --id %[1]d
  config.yaml: |
    log: {level: info}
---
`
	var text bytes.Buffer
	for i := 0; text.Len() < size; i++ {
		switch {
		case dense || i%8 == 0:
			fmt.Fprintf(&text, deployment, i, lifecycle)
		case i%2 == 0:
			fmt.Fprintf(&text, deployment, i, "")
		default:
			fmt.Fprintf(&text, config, i)
		}
	}
	return text.Bytes()
}

// BenchmarkStream: a stream of 10 MB as charts are, and one in which each document has a
// handler.
func BenchmarkStream(b *testing.B) {
	const size = 10 << 20
	for name, dense := range map[string]bool{"charts": false, "dense": true} {
		b.Run(name, func(b *testing.B) {
			text := stream(size, dense)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, report := Stream(text, inClass); len(report.Refusals) > 0 || report.Moved == 0 {
					b.Fatal(report.Refusals)
				}
			}
		})
	}
	b.Run("one list", func(b *testing.B) {
		text := oneList(size)
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			if _, report := Stream(text, inClass); len(report.Refusals) > 0 || report.Moved == 0 {
				b.Fatal(report.Refusals)
			}
		}
	})
}

// oneList is one document of at least so many bytes.
func oneList(size int) []byte {
	var text bytes.Buffer
	text.WriteString("apiVersion: v1\nkind: List\nitems:\n")
	for i, document := range bytes.Split(stream(size, true), []byte("---\n")) {
		for line := range bytes.Lines(document) {
			switch {
			case i > 0 && bytes.HasPrefix(line, []byte("apiVersion")), i == 0 && bytes.HasPrefix(line, []byte("apiVersion")):
				text.WriteString("- ")
			default:
				text.WriteString("  ")
			}
			text.Write(line)
		}
	}
	return text.Bytes()
}

// TestLinear: twice the text costs about twice the memory, in a stream and in one document.
func TestLinear(t *testing.T) {
	const size = 32 << 10
	for name, of := range map[string]func(int) []byte{
		"a stream": func(n int) []byte { return stream(n, true) },
		"a list":   oneList,
		"one line": func(n int) []byte { return []byte(oneLine(n)) },
	} {
		t.Run(name, func(t *testing.T) {
			cost := func(n int) (uint64, time.Duration) {
				text := of(n)
				start := time.Now()
				return allocated(func() {
					if _, report := Stream(text, inClass); len(report.Refusals) > 0 || report.Moved == 0 {
						t.Fatal(report.Refusals)
					}
				}), time.Since(start)
			}
			one, _ := cost(size)
			four, _ := cost(4 * size)
			if four > 6*one {
				t.Errorf("%d bytes take %d, four times as many %d", size, one, four)
			}
		})
	}
}

// oneLine is a list in braces.
func oneLine(size int) string {
	var text strings.Builder
	text.WriteString("{apiVersion: v1, kind: List, items: [")
	for i := 0; text.Len() < size; i++ {
		fmt.Fprintf(&text, "{apiVersion: v1, kind: Pod, metadata: {name: p%d}, spec: {containers: [{name: web, lifecycle: {preStop: {sleep: {seconds: 1}}}}]}}, ", i)
	}
	return text.String() + "]}"
}
