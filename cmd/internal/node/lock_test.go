package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLock: one installation at a time for a configuration, also for one whose directory does not exist yet.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "made", "later", "config.toml")
	unlock, waited, failure := lock(config, 0)
	if failure != nil || waited {
		t.Fatal(waited, failure)
	}
	if _, _, failure := lock(config, time.Millisecond); failure == nil || !strings.Contains(failure.Message, "another installation") {
		t.Errorf("the second lock: %v", failure)
	}
	time.AfterFunc(10*time.Millisecond, unlock)
	unlock, waited, failure = lock(config, time.Minute)
	if failure != nil || !waited {
		t.Fatal(waited, failure)
	}
	unlock()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}
