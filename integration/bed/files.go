package bed

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// files is the host's side of the directory through which a test and the processes of a container synchronize.
type files struct {
	t   *testing.T
	Dir string
}

func (f files) Path(name string) string { return filepath.Join(f.Dir, name) }

// WaitFor waits for a file that a process in the container makes.
func (f files) WaitFor(name string) {
	f.t.Helper()
	Poll(f.t, "file "+name, func() bool { return f.Exists(name) })
}

// Touch makes a file that a process in the container waits for.
func (f files) Touch(name string) {
	f.t.Helper()
	if err := os.WriteFile(f.Path(name), nil, 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f files) Read(name string) string {
	f.t.Helper()
	data, err := os.ReadFile(f.Path(name))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(data)
}

func (f files) Exists(name string) bool {
	_, err := os.Stat(f.Path(name))
	return err == nil
}

// Hit is a request, as the tests' server logs it.
type Hit struct{ Scheme, Host, URI string }

// Hits returns the requests so far of a server that logs to this directory.
func (f files) Hits() []Hit {
	f.t.Helper()
	file, err := os.Open(f.Path("hits"))
	if err != nil {
		return nil
	}
	defer file.Close()
	var hits []Hit
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var one Hit
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			f.t.Fatal(err)
		}
		hits = append(hits, one)
	}
	return hits
}

// Poll waits until done returns true, and ends the test after Limit.
func Poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	err := harness.Poll(t.Context(), Limit, what, func() (bool, error) { return done(), nil })
	if err != nil {
		t.Fatal(err)
	}
}

// ReadFile returns the content of a file, which must exist.
func ReadFile(b *Bench, dir, name string) string {
	b.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		b.Fatal(err)
	}
	return string(data)
}

// InstallFrom puts programs into a directory, each with a rename, as an installation does. cp writes them: a file that this process
// writes is open in every child that it starts meanwhile, and cannot be executed until they close it (ETXTBSY, go.dev/issue/22315).
func InstallFrom(t testing.TB, from, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if out, err := exec.CommandContext(t.Context(), "cp", filepath.Join(from, name), path+".new").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
}
