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
	"time"

	"golang.org/x/sys/unix"
)

// machine says what the numbers belong to.
func (s *site) machine(ctx context.Context) (map[string]string, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return nil, err
	}
	load, err := loadAverage()
	if err != nil {
		return nil, err
	}
	machine := map[string]string{
		"began": time.Now().UTC().Format(time.RFC3339), "commit": commit(ctx), "load-before": load,
		"cpu": cpuModel(), "cpus": strconv.Itoa(runtime.NumCPU()), "memory": strconv.FormatUint(uint64(info.Totalram)*uint64(info.Unit), 10),
		"kernel": unix.ByteSliceToString(name.Release[:]), "cgroups": cgroupLayout(),
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

// loadAverage returns the load average of the last minute.
func loadAverage() (string, error) {
	text, err := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first, err
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
