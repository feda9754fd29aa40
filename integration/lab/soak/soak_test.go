package main

import (
	"os"
	"strings"
	"testing"
)

// TestSmallSoak: a run that is too short to show a small leak, but whole. It goes wrong where the large one would at
// once.
func TestSmallSoak(t *testing.T) {
	result, err := soak(t.Context(), Config{Containers: 32, Parallel: 8, Pod: 30, Handlers: 400}, "../../../bin", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	tables := result.Tables()
	t.Logf("%s", tables)
	for _, row := range []string{"| their handlers | 64, all succeeded |", "| a pod with 30 containers |", "| left behind | nothing |", "| goroutines |"} {
		if !strings.Contains(tables, row) {
			t.Errorf("the tables lack %q", row)
		}
	}
}
