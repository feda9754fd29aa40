package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// configFile is the OCI runtime spec's name for the file in a bundle.
const configFile = "config.json"

// Spec is the small part of a bundle's config.json that the shim itself needs:
// decoding the whole of it would cost each container time and memory. What a
// handler process needs (user, capabilities, seccomp, …) is read by the handler
// host alone.
type Spec struct {
	Annotations map[string]string `json:"annotations"`
	Linux       struct {
		CgroupsPath string `json:"cgroupsPath"`
	} `json:"linux"`
}

// ReadSpec reads config.json of the bundle at path.
func ReadSpec(bundle string) (*Spec, error) {
	data, err := os.ReadFile(filepath.Join(bundle, configFile))
	if err != nil {
		return nil, fmt.Errorf("read the bundle's spec: %w", err)
	}
	var spec Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("decode %s: %w", filepath.Join(bundle, configFile), err)
	}
	return &spec, nil
}

// SystemdCgroup tells whether the cgroups path has the form slice:prefix:name,
// which asks for the systemd driver whether or not options came with it
// (runc's README, "systemd cgroup driver").
func (s *Spec) SystemdCgroup() bool {
	return len(strings.Split(s.Linux.CgroupsPath, ":")) == 3
}
