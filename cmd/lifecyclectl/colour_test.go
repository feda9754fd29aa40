package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/console"
	"google.golang.org/protobuf/types/known/timestamppb"

	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

func someRuns() []place {
	now := timestamppb.Now()
	return []place{
		{"default", &lifecyclev1.ContainerStatus{Id: "a", Phase: "Created"}},
		{"default", &lifecyclev1.ContainerStatus{Id: "b", Phase: "PreStop", Runs: []*lifecyclev1.HandlerRun{
			{Handler: "postStart", Type: "exec", Result: "Succeeded", FinishedAt: now},
			{Handler: "preStop", Type: "exec", Error: "two\nlines"},
		}}},
		{"default", &lifecyclev1.ContainerStatus{Id: "c", Phase: "Running", Runs: []*lifecyclev1.HandlerRun{
			{Handler: "postStart", Type: "exec", Result: "TimedOut", FinishedAt: now},
		}}},
	}
}

// onTerminal returns what printTable writes to one.
func onTerminal(t *testing.T) string {
	t.Helper()
	pty, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	tty, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	if err := printTable(terminal{tty}, nil, someRuns()); err != nil {
		t.Fatal(err)
	}
	text, buffer := "", make([]byte, 4096)
	for deadline := time.Now().Add(30 * time.Second); strings.Count(text, "\n") < 5 && time.Now().Before(deadline); {
		n, err := pty.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		text += string(buffer[:n])
	}
	return strings.ReplaceAll(text, "\r\n", "\n")
}

// TestColours: on a terminal, for those who want them; else the same text.
func TestColours(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	var piped bytes.Buffer
	if err := printTable(&piped, nil, someRuns()); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(piped.String(), "\x1b") {
		t.Errorf("colours in a pipe: %q", piped.String())
	}
	coloured := onTerminal(t)
	for i, line := range strings.SplitAfter(strings.TrimSuffix(coloured, "\n"), "\n") {
		want := []string{"", "", "", yellow, red}[i]
		if got := strings.HasPrefix(line, "\x1b"); got != (want != "") || !strings.HasPrefix(line, want) || got && !strings.HasSuffix(strings.TrimSpace(line), plain) {
			t.Errorf("line %d is %q", i, line)
		}
	}
	if bare := strings.NewReplacer(red, "", yellow, "", plain, "").Replace(coloured); bare != piped.String() {
		t.Errorf("on a terminal it says %q, else %q", bare, piped.String())
	}
	for name, value := range map[string]string{"NO_COLOR": "1", "TERM": "dumb"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			if got := onTerminal(t); got != piped.String() {
				t.Errorf("got %q", got)
			}
		})
	}
}

// TestSameSocket: a socket may have several paths, and none any more.
func TestSameSocket(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/a", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{dir + "/a", dir + "/a", true},
		{dir + "/a", dir + "/link/a", true},
		{dir + "/gone", dir + "/gone", true},
		{dir + "/a", dir + "/gone", false},
		{dir + "/gone", dir + "/link/gone", false},
	} {
		if got := sameSocket(test.a, test.b); got != test.want {
			t.Errorf("%s and %s: %t", test.a, test.b, got)
		}
	}
}
