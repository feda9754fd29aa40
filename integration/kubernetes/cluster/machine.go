package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

const (
	// logLinks is where the kubelet keeps a link to the log of each container, wherever the logs are.
	logLinks = "/var/log/containers"
	// devicePlugins is where it listens for them, wherever its folder is, having removed all that is there.
	devicePlugins = "/var/lib/kubelet/device-plugins"
)

// machine is what a kubelet changes outside of its folders, as it was before.
type machine struct {
	Sysctls map[string]string // path → value
	// Missing are directories that were not there, inner ones first.
	Missing []string
}

func machineFile(dir string) string { return filepath.Join(dir, "machine.json") }

// noteMachine writes it down, for Close or, if this test is killed, for the next one.
func noteMachine(dir string) error {
	before := machine{Sysctls: map[string]string{}}
	for _, path := range harness.KubeletSysctls {
		value, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("sysctls: %w", err)
		}
		before.Sysctls[path] = string(value)
	}
	if err := removeDeadSocket(); err != nil {
		return err
	}
	for _, path := range []string{logLinks, devicePlugins, filepath.Dir(devicePlugins)} {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			before.Missing = append(before.Missing, path)
		}
	}
	if !slices.Contains(before.Missing, devicePlugins) {
		return fmt.Errorf("%s is in use, so this machine has a kubelet, and a second one would remove what it has there: "+
			"use another machine, or remove the folder if that kubelet has gone", devicePlugins)
	}
	text, err := json.Marshal(before)
	if err != nil {
		return err
	}
	return writeFile(machineFile(dir), string(text))
}

// removeDeadSocket, of a kubelet that has gone and had no device plugin, with the folders that have nothing else.
func removeDeadSocket() error {
	socket := filepath.Join(devicePlugins, "kubelet.sock")
	if entries, _ := os.ReadDir(devicePlugins); len(entries) != 1 || entries[0].Name() != filepath.Base(socket) {
		return nil
	}
	if conn, err := net.Dial("unix", socket); err == nil {
		return conn.Close() // it lives
	}
	if err := os.RemoveAll(devicePlugins); err != nil {
		return err
	}
	_ = os.Remove(filepath.Dir(devicePlugins)) // not empty: in use
	return nil
}

// restoreMachine does nothing if there was no kubelet.
func restoreMachine(dir string) error {
	var before machine
	text, err := os.ReadFile(machineFile(dir))
	if err != nil {
		return nil //nolint:nilerr // it was never written, or is gone with the rest
	}
	if err := json.Unmarshal(text, &before); err != nil {
		return fmt.Errorf("%s: %w", machineFile(dir), err)
	}
	errs := []error{removeLogLinks(dir), os.RemoveAll(devicePlugins)}
	for path, value := range before.Sysctls {
		errs = append(errs, os.WriteFile(path, []byte(value), 0o644))
	}
	for _, path := range before.Missing {
		_ = os.Remove(path) // works on an empty one, which no other program uses
	}
	return errors.Join(errs...)
}

func removeLogLinks(dir string) error {
	links, err := filepath.Glob(filepath.Join(logLinks, "*.log"))
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		if target, _ := os.Readlink(link); strings.HasPrefix(target, dir+"/") {
			errs = append(errs, os.Remove(link))
		}
	}
	return errors.Join(errs...)
}
