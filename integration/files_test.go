package integration

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// files is the host's side of the directory by which a test and what runs in a
// container steer each other.
type files struct {
	t   *testing.T
	dir string
}

func (f files) path(name string) string { return filepath.Join(f.dir, name) }

// waitFor a file that something in the container makes.
func (f files) waitFor(name string) {
	f.t.Helper()
	poll(f.t, "file "+name, func() bool { return f.exists(name) })
}

// touch makes a file that something in the container waits for.
func (f files) touch(name string) {
	f.t.Helper()
	if err := os.WriteFile(f.path(name), nil, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f files) read(name string) string {
	f.t.Helper()
	data, err := os.ReadFile(f.path(name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(data)
}

func (f files) exists(name string) bool {
	_, err := os.Stat(f.path(name))
	return err == nil
}

// hit is one request, as the tests' server notes it.
type hit struct{ Scheme, Host, URI string }

// hits so far of a server that notes them in the directory.
func (f files) hits() []hit {
	f.t.Helper()
	file, err := os.Open(f.path("hits"))
	if err != nil {
		return nil
	}
	defer file.Close()
	var hits []hit
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var one hit
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			f.t.Fatal(err)
		}
		hits = append(hits, one)
	}
	return hits
}

func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	err := harness.Poll(t.Context(), limit, what, func() (bool, error) { return done(), nil })
	if err != nil {
		t.Fatal(err)
	}
}
