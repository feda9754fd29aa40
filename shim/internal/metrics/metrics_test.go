package metrics

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAdd: counts of many writers add up, and the file is Prometheus' at any time.
func TestAdd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lifecycle.prom")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			counts := Counts{
				Series(Handlers, "handler", "postStart", "type", "exec", "result", "Failed"): 1,
				Kills: 2,
			}
			counts.Observe("postStart", 750*time.Millisecond)
			if err := Add(path, counts); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"# TYPE lifecycle_shim_handlers_total counter",
		`lifecycle_shim_handlers_total{handler="postStart",type="exec",result="Failed"} 20`,
		"# TYPE lifecycle_shim_handler_duration_seconds histogram",
		`lifecycle_shim_handler_duration_seconds_bucket{handler="postStart",le="0.5"} 0`,
		`lifecycle_shim_handler_duration_seconds_bucket{handler="postStart",le="1"} 20`,
		`lifecycle_shim_handler_duration_seconds_bucket{handler="postStart",le="+Inf"} 20`,
		`lifecycle_shim_handler_duration_seconds_sum{handler="postStart"} 15`,
		`lifecycle_shim_handler_duration_seconds_count{handler="postStart"} 20`,
		"lifecycle_shim_sigkills_total 40",
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
	if strings.Index(string(text), `le="5"`) > strings.Index(string(text), `le="10"`) {
		t.Error("the buckets are not in order")
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 2 {
		t.Errorf("the directory has %v, %v; want the file and its lock", entries, err)
	}
}

// TestAddToNonsense: what is no series of ours is not kept, and never an error.
func TestAddToNonsense(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lifecycle.prom")
	text := "nonsense\nlifecycle_shim_sigkills_total x\n\x00\xff\nlifecycle_shim_starts_held_total 3\nother_total 5\n \n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Add(path, Counts{Kills: 1}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(got), "\nlifecycle_shim_sigkills_total 1\n") || !strings.Contains(string(got), "\nlifecycle_shim_starts_held_total 3\n") ||
		strings.Contains(string(got), "other") {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestAddSaysWhatIsWrong(t *testing.T) {
	if err := Add(filepath.Join(t.TempDir(), "none", "lifecycle.prom"), Counts{Kills: 1}); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("got %v", err)
	}
}

// TestOperationsPage: docs/operate/operations.md names every series, and no other.
func TestOperationsPage(t *testing.T) {
	page, err := os.ReadFile("../../../docs/operate/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, family := range families {
		known[family.name] = true
		if !strings.Contains(string(page), "`"+family.name+"`") {
			t.Errorf("the page does not say what %s counts", family.name)
		}
	}
	for _, name := range regexp.MustCompile(`lifecycle_shim_\w+`).FindAllString(string(page), -1) {
		if !known[name] {
			t.Errorf("the page names %s, which there is not", name)
		}
	}
}

// TestNoLinkForTheLock: what a link would lead to is not made.
func TestNoLinkForTheLock(t *testing.T) {
	dir := t.TempDir()
	path, elsewhere := filepath.Join(dir, "lifecycle.prom"), filepath.Join(dir, "elsewhere")
	if err := os.Symlink(elsewhere, path+".lock"); err != nil {
		t.Fatal(err)
	}
	if err := Add(path, Counts{Kills: 1}); err == nil {
		t.Error("a link is taken for the lock")
	}
	if _, err := os.Lstat(elsewhere); err == nil {
		t.Error("the link was followed")
	}
}
