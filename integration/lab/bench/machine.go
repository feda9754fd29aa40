package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// machine says what the numbers belong to.
func (s *site) machine(ctx context.Context) (map[string]string, error) {
	load, err := loadAverage()
	if err != nil {
		return nil, err
	}
	machine := map[string]string{
		"began": time.Now().UTC().Format(time.RFC3339), "commit": harness.Commit(), "machine": harness.Machine(),
		"cgroups": cgroupLayout(), "load-before": load,
	}
	for program, flag := range map[string]string{
		"containerd": "--version", "containerd-shim-runc-v2": "-v", "containerd-shim-lifecycle-v2": "-v", "runc": "--version", "crun": "--version", "nsenter": "--version",
	} {
		if machine[program], err = s.version(ctx, program, flag); err != nil {
			return nil, err
		}
	}
	return machine, nil
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

func cgroupLayout() string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "v2"
	}
	if _, err := os.Stat(unified); err == nil {
		return "hybrid"
	}
	return "v1"
}

// loadAverage returns the load average of the last minute.
func loadAverage() (string, error) {
	text, err := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first, err
}

func dialUnix(path string) (net.Conn, error) { return net.Dial("unix", filepath.Clean(path)) }
