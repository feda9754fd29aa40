package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/installer"
	"github.com/lifecycle-shim/lifecycle-shim/internal/docpage"
)

func section(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/operate/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	return docpage.Section(string(page), "## The installer")
}

// TestDocumentedEvents: the page has a row for each reason, and no other.
func TestDocumentedEvents(t *testing.T) {
	var rows []string
	for _, cells := range docpage.Rows(section(t)) {
		if name := strings.Trim(cells[0], "`"); strings.HasPrefix(name, "LifecycleShim") {
			rows = append(rows, name)
		}
	}
	reasons := []string{
		installer.ReasonReady, installer.ReasonFailed, installer.ReasonStopped, installer.ReasonRestartNeeded,
		installer.ReasonUninstallWaits, installer.ReasonUninstalled, installer.ReasonUninstallFailed,
	}
	if !slices.Equal(rows, reasons) {
		t.Errorf("the page has %q, want %q", rows, reasons)
	}
}

// TestDocumentedNames: flags and keys on the page exist.
func TestDocumentedNames(t *testing.T) {
	text := section(t)
	known := map[string]bool{}
	for _, command := range newRoot().Commands() {
		for _, name := range regexp.MustCompile(`--[a-z-]+`).FindAllString(command.Flags().FlagUsages(), -1) {
			known[name] = true
		}
	}
	flags := regexp.MustCompile("`(--[a-z-]+)").FindAllStringSubmatch(text, -1)
	for _, flag := range flags {
		if !known[flag[1]] {
			t.Errorf("%s is no flag", flag[1])
		}
	}
	if len(flags) < 5 {
		t.Errorf("only %d flags on the page", len(flags))
	}
	for _, key := range []string{
		installer.DefaultReadyLabel, installer.InstalledAnnotation, installer.ErrorAnnotation, installer.UninstallAnnotation, installer.Unchecked, installer.DefaultDaemonSet,
	} {
		if !strings.Contains(text, key) {
			t.Errorf("the page does not have %s", key)
		}
	}
}

// TestBadFlags: each is refused before anything is done, and the error names the flag.
func TestBadFlags(t *testing.T) {
	good := []string{"run", "--node-name=n1", "--namespace=ours", "--kubeconfig=/nowhere", "--listen=127.0.0.1:0"}
	for bad, want := range map[string]string{
		"--node-name=N/1": "--node-name", "--namespace=": "--namespace", "--restart-by=magic": "--restart-by", "--stop-after-failures=-1": "--stop-after-failures",
		"--max-unavailable=0": "--max-unavailable", "--turn-duration=1ms": "--turn-duration", "--settings=config.toml": "--settings",
		"--startup-taint=a b": "--startup-taint", "--ready-label=": "--ready-label", "--retry=0s": "--retry", "--log-format=xml": "--log-format", "--log-level=loud": "--log-level",
		"--prefix=opt": "--prefix", "--log-level=info": "cannot find the API server",
	} {
		root := newRoot()
		root.SetArgs(append(slices.Clone(good), bad))
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
