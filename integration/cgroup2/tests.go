package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// binaries of bin/ that the tests use: all but those with their own targets.
var binaries = []string{
	"containerd", "containerd-1.7", "containerd-shim-lifecycle-v2", "containerd-shim-runc-v2", "containerd-shim-runc-v2-1.7", "criu", "criu.d", "ctr",
	"lifecycle-hookexec", "lifecyclectl", "previous", "runc", "testattacker", "testlogger", "testreader", "testserver",
}

// testsDisk is how large the tests' disk looks.
const testsDisk = "2G"

// newTests makes the disk with the repository's files, its programs, and the tests' programs: those that pattern matches are to be run.
func newTests(ctx context.Context, repository, dir, tags, pattern string) (disk string, err error) {
	work := filepath.Join(dir, "tests")
	tree := filepath.Join(work, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "bin"), 0o755); err != nil {
		return "", err
	}
	err = run(ctx, "sh", append([]string{"-ec", `cd "$1" && git ls-files -co --exclude-standard | cpio --quiet -pdm "$2"
		cd bin && shift && tree=$1 && shift && cp -a "$@" "$tree/bin/"`, "sh", repository, tree}, binaries...)...)
	if err != nil {
		return "", fmt.Errorf("%w: run `make build servers` first", err)
	}
	var lines strings.Builder
	for _, pkg := range packages {
		if err := buildTests(ctx, repository, tree, tags, pkg); err != nil {
			return "", err
		}
		fmt.Fprintf(&lines, "%s\t%s\t%s\n", pkg, cmp.Or(pattern, "."), skip(pkg)) // no field may be empty
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(work, "run"), guestFile("run"), 0o755),
		os.WriteFile(filepath.Join(work, "repository"), []byte(repository+"\n"), 0o644),
		os.WriteFile(filepath.Join(work, "environment"), fmt.Appendf(nil, "export %s=%d\n", harness.Slowness, slowness), 0o644),
		os.WriteFile(filepath.Join(work, "tests"), []byte(lines.String()), 0o644),
	)
	if err != nil {
		return "", err
	}
	disk = filepath.Join(dir, "tests.ext4")
	return disk, makeDisk(ctx, work, disk, testsDisk)
}

// buildTests builds the package's test program, and checks that the tests that are left out exist. It is without the race detector,
// which has seen the same code on the machine itself, and would double the time in the emulator.
func buildTests(ctx context.Context, repository, tree, tags, pkg string) error {
	program := filepath.Join(tree, pkg, "cgroup2.test")
	if err := run(ctx, "go", "-C", filepath.Join(repository, pkg), "test", "-c", "-tags", tags, "-o", program, "."); err != nil {
		return err
	}
	list := command(ctx, program, "-test.list", ".")
	list.Dir = filepath.Join(repository, pkg)
	var names bytes.Buffer
	list.Stdout, list.Stderr = &names, os.Stderr
	if err := list.Run(); err != nil {
		return fmt.Errorf("the tests of %s: %w", pkg, err)
	}
	return excludedExist(pkg, names.String())
}
