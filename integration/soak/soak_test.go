package main

import (
	"os"
	"testing"
)

// TestSmallSoak: a run that is too short to show a small leak, but whole. It goes wrong where the large one would at
// once.
func TestSmallSoak(t *testing.T) {
	result, err := soak(t.Context(), Config{Containers: 32, Parallel: 8, Pod: 30, Handlers: 400}, "../../bin", os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", result.Tables())
	if again, err := fromPage(result.Page()); err != nil || again.Page() != result.Page() {
		t.Errorf("the page does not hold the result: %v", err)
	}
}
