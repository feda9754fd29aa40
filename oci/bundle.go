package oci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/lifecycle-shim/lifecycle-shim/internal/shorten"
)

// configFile is the OCI runtime spec's name for the file in a bundle.
const configFile = "config.json"

const (
	// maxConfig bounds config.json, in bytes. A spec reaches containerd in a request, and
	// containerd's API carries at most 16 MiB (containerd, defaults.DefaultMaxRecvMsgSize).
	maxConfig = 16 << 20
	// maxAnnotations bounds how many annotations are kept: those of containers.
	maxAnnotations = 4096
	// maxConfigError bounds what encoding/json says of a file.
	maxConfigError = 512
)

// Spec is the small part of a bundle's config.json that the shim itself needs:
// decoding the whole of it would cost each container time and memory. What a
// handler process needs (user, capabilities, seccomp, …) is read by the handler
// host alone.
type Spec struct {
	// Annotations that ReadSpec returns are those with a key of this shim, of containerd
	// or of Kubernetes.
	Annotations annotations `json:"annotations"`
	Linux       struct {
		CgroupsPath string `json:"cgroupsPath"`
	} `json:"linux"`
}

// ReadSpec reads config.json of the bundle at path.
func ReadSpec(bundle string) (*Spec, error) {
	path := filepath.Join(bundle, configFile)
	data, err := readAll(path)
	if err != nil {
		return nil, fmt.Errorf("read the bundle's spec: %w", err)
	}
	var spec Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("decode %s: %s", path, shorten.End(err.Error(), maxConfigError))
	}
	return &spec, nil
}

// readAll reads a file of at most maxConfig bytes, and no byte of a longer one.
func readAll(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxConfig {
		return nil, fmt.Errorf("%s is %d bytes long; at most %d are allowed", path, info.Size(), maxConfig)
	}
	// A file that grows meanwhile is cut, and then is no JSON.
	data := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	_, err = data.ReadFrom(io.LimitReader(file, maxConfig))
	return data.Bytes(), err
}

// annotations by key.
type annotations map[string]string

// UnmarshalJSON adds the annotations that concern the shim, and skips the others: a
// container may have thousands.
func (a *annotations) UnmarshalJSON(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	switch token, err := decoder.Token(); {
	case err != nil:
		return err
	case token == nil: // null
		return nil
	case token != json.Delim('{'):
		return fmt.Errorf("annotations must be an object, not %s", shorten.End(string(data), 20))
	}
	if *a == nil {
		*a = annotations{}
	}
	for decoder.More() {
		key, _ := decoder.Token() // json.Unmarshal has checked the syntax
		value, err := decoder.Token()
		if err != nil {
			return err
		}
		text, ok := value.(string)
		if !ok && value != nil { // null is empty, as for encoding/json
			return fmt.Errorf("the annotation %s must be a string", shorten.Quote(key.(string), maxQuoted))
		}
		if !concerns(key.(string)) {
			continue
		}
		if (*a)[key.(string)] = text; len(*a) > maxAnnotations {
			return fmt.Errorf("has more than %d annotations for %s, containerd and Kubernetes", maxAnnotations, domain)
		}
	}
	return nil
}

// concerns reports whether the shim may look at an annotation: its own keys, and what CRI,
// the kubelet and containerd say of the container.
func concerns(key string) bool {
	return strings.HasPrefix(key, "io.kubernetes.") || strings.HasPrefix(key, "io.containerd.") || strings.Contains(key, domain)
}

// SystemdCgroup reports whether the cgroups path has the form slice:prefix:name,
// which asks for the systemd driver whether or not options came with it
// (runc's README, "systemd cgroup driver").
func (s *Spec) SystemdCgroup() bool {
	return strings.Count(s.Linux.CgroupsPath, ":") == 2
}
