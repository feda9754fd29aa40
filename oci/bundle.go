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
	// maxAnnotations bounds how many annotations are kept.
	maxAnnotations = 4096
	// maxConfigError bounds the text of an encoding/json error, in bytes.
	maxConfigError = 512
)

// Spec is the small part of a bundle's config.json that the shim itself needs: decoding
// all of it would cost each container time and memory. Only the handler host reads what a
// handler's process needs (user, capabilities, seccomp, …).
type Spec struct {
	// Annotations has the keys of this shim, of containerd and of Kubernetes. ReadSpec drops
	// others.
	Annotations annotations `json:"annotations"`
	Linux       struct {
		CgroupsPath string `json:"cgroupsPath"`
	} `json:"linux"`
}

// ReadSpec reads the bundle's config.json.
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

// readAll reads a file of at most maxConfig bytes. It refuses a longer one without reading
// it.
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
	// If the file grows meanwhile, it is cut, and is not valid JSON.
	data := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	_, err = data.ReadFrom(io.LimitReader(file, maxConfig))
	return data.Bytes(), err
}

// annotations by key.
type annotations map[string]string

// UnmarshalJSON keeps only the annotations that concern the shim: a container may have
// thousands of others.
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
		if !ok && value != nil { // like encoding/json, read null as an empty string
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

// concerns reports whether the shim may need the annotation: its own keys, and those that
// CRI, the kubelet and containerd set.
func concerns(key string) bool {
	return strings.HasPrefix(key, "io.kubernetes.") || strings.HasPrefix(key, "io.containerd.") || strings.Contains(key, domain)
}

// SystemdCgroup reports whether the cgroups path has the form slice:prefix:name, which
// selects the systemd driver even without options (runc's README, "systemd cgroup
// driver").
func (s *Spec) SystemdCgroup() bool {
	return strings.Count(s.Linux.CgroupsPath, ":") == 2
}
