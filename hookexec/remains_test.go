package hookexec

import (
	"os"
	"path/filepath"
	"testing"
)

// TestOOMKills: the container's own count while there is one, and what was counted around it since it began.
func TestOOMKills(t *testing.T) {
	slice := t.TempDir()
	scope := filepath.Join(slice, "scope")
	if err := os.Mkdir(scope, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(dir, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, memoryEvents), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r := &Remains{memory: filepath.Join(scope, memoryEvents), around: filepath.Join(slice, memoryEvents), before: 2}
	want := func(count int, known bool, around int) {
		t.Helper()
		gotCount, gotKnown := r.OOMKills()
		if got := r.OOMKillsAround(); gotCount != count || gotKnown != known || got != around {
			t.Errorf("%d (known: %v), around %d; want %d (%v), %d", gotCount, gotKnown, got, count, known, around)
		}
	}
	want(0, false, 0)
	write(slice, "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n")
	write(scope, "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n")
	want(0, true, 0)
	write(slice, "oom_kill 3\n")
	write(scope, "oom_kill 1\n")
	want(1, true, 1)
	if err := os.RemoveAll(scope); err != nil {
		t.Fatal(err)
	}
	want(0, false, 1)
	write(slice, "oom_kill x\n")
	want(0, false, 0)
}
