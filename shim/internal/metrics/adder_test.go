package metrics

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAdder: all that was queued is in the file after Flush, in as few turns as come.
func TestAdder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lifecycle.prom")
	adder := &Adder{Failed: func(path string, err error) { t.Errorf("%s: %v", path, err) }}
	adder.Flush(t.Context()) // of nothing
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 20 {
				adder.Add(path, Counts{Kills: 1})
			}
		})
	}
	all.Wait()
	adder.Flush(t.Context())
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "\nlifecycle_shim_sigkills_total 1000\n") {
		t.Errorf("%s, %v", text, err)
	}
	adder.Add(path, Counts{Kills: 1}) // after it was idle
	adder.Flush(t.Context())
	if text, _ := os.ReadFile(path); !strings.Contains(string(text), "\nlifecycle_shim_sigkills_total 1001\n") {
		t.Errorf("%s", text)
	}
}

// TestAdderDoesNotBlock: not for the lock, and Flush no longer than its context. What was queued meanwhile is
// added when the lock is free.
func TestAdderDoesNotBlock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lifecycle.prom")
	holder, err := os.Create(path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(holder.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	adder := &Adder{Failed: func(path string, err error) { t.Errorf("%s: %v", path, err) }}
	for range 3 {
		adder.Add(path, Counts{Kills: 1})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	adder.Flush(ctx)
	if ctx.Err() == nil {
		t.Error("the lock is held, and everything is added")
	}
	_ = holder.Close()
	adder.Flush(t.Context())
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "\nlifecycle_shim_sigkills_total 3\n") {
		t.Errorf("%s, %v", text, err)
	}
}

// TestAdderSaysWhatIsWrong, and goes on with the other file.
func TestAdderSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	var failed []string
	adder := &Adder{Failed: func(path string, err error) {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		failed = append(failed, path)
	}}
	bad := filepath.Join(dir, "none", "lifecycle.prom")
	adder.Add(bad, Counts{Kills: 1})
	adder.Add(filepath.Join(dir, "good.prom"), Counts{Kills: 1})
	adder.Flush(t.Context())
	if _, err := os.Stat(filepath.Join(dir, "good.prom")); err != nil || len(failed) != 1 || failed[0] != bad {
		t.Errorf("failed %q, %v", failed, err)
	}
}
