package main

import (
	"os"
	"testing"
)

// TestPage: docs/endurance.md is what the program writes of the result that it holds, and that is one of a whole run
// that has succeeded.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/endurance.md")
	if err != nil {
		t.Fatal(err)
	}
	result, err := fromPage(string(page))
	if err != nil {
		t.Fatal(err)
	}
	if string(page) != result.Page() {
		t.Error("docs/endurance.md is not what `make soak SOAK_PAGE=docs/endurance.md` writes")
	}
	if err := flat(result.Shim.Samples); err != nil {
		t.Error(err)
	}
	c := result.Containers
	if len(result.Left) > 0 || c.Done != result.Config.Containers || c.Handlers != 2*c.Done || result.Shim.Handlers < result.Config.Handlers {
		t.Errorf("the result is of no whole run: %+v", result.Config)
	}
	if result.Began.IsZero() || result.Machine == "" || result.Commit == "" {
		t.Error("the page does not say when, where and of what it is")
	}
}
