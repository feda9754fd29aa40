package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// logLinks is where the kubelet keeps a link to the log of each container, wherever the logs are.
const logLinks = "/var/log/containers"

// machine is what a kubelet changes outside of its folders, as it was before.
type machine struct {
	Sysctls map[string]string // path → value
	// Made are directories that were not there, inner ones first.
	Made []string
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
	if _, err := os.Stat(logLinks); errors.Is(err, os.ErrNotExist) {
		before.Made = append(before.Made, logLinks)
	}
	text, err := json.Marshal(before)
	if err != nil {
		return err
	}
	return writeFile(machineFile(dir), string(text))
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
	errs := []error{removeLogLinks(dir)}
	for path, value := range before.Sysctls {
		errs = append(errs, os.WriteFile(path, []byte(value), 0o644))
	}
	for _, made := range before.Made {
		_ = os.Remove(made) // empty: ours alone
	}
	harness.RemoveCgroupTree(cgroupRoot(dir))
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
