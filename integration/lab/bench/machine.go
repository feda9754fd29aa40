package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/lab/bench/report"
)

// machine says what the numbers belong to.
func (s *site) machine(ctx context.Context) (m report.Machine, err error) {
	m.CPUs, m.CPU, m.Cgroups = runtime.NumCPU(), cpuModel(), cgroupLayout()
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, err
	}
	m.Memory = int64(info.Totalram) * int64(info.Unit)
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return m, err
	}
	m.Kernel = unix.ByteSliceToString(name.Release[:])
	if m.LoadBefore, err = loadAverage(); err != nil {
		return m, err
	}
	m.Commit = commit(ctx)
	m.Versions = map[string]string{}
	for program, flag := range map[string]string{
		"containerd": "--version", "containerd-shim-runc-v2": "-v", "containerd-shim-lifecycle-v2": "-v", "runc": "--version", "crun": "--version", "nsenter": "--version",
	} {
		if m.Versions[program], err = s.version(ctx, program, flag); err != nil {
			return m, err
		}
	}
	return m, nil
}

// version is what a program says of itself, in one line. The shims write theirs as a table.
func (s *site) version(ctx context.Context, program, flag string) (string, error) {
	output, err := s.command(ctx, program, flag).Output()
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", program, err)
	}
	text := string(output)
	if _, after, ok := strings.Cut(text, "Version:"); ok {
		text = strings.TrimSpace(after)
	}
	line, _, _ := strings.Cut(text, "\n")
	return strings.Join(strings.Fields(line), " "), nil
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo") // always there
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH // arm64 names none
}

func cgroupLayout() string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "v2"
	}
	if _, err := os.Stat(unified); err == nil {
		return "hybrid"
	}
	return "v1"
}

func loadAverage() (float64, error) {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), " ")
	return strconv.ParseFloat(first, 64)
}

// commit is of the directory that we run in, which may be no checkout.
func commit(ctx context.Context) string {
	output, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", "--abbrev=10").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(output))
}

func dialUnix(path string) (net.Conn, error) { return net.Dial("unix", filepath.Clean(path)) }
