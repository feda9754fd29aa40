package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// root is the file system as a containerd sees it, which may be in a mount namespace of its own.
type root struct {
	// dir of the process in /proc.
	dir string
	// path is its PATH.
	path string
}

// at is where a path of containerd's is found from here.
func (r root) at(path string) string { return filepath.Join(r.dir, "root", path) }

// environ returns a variable of the process's environment.
func (r root) environ(name string) string {
	data, _ := os.ReadFile(filepath.Join(r.dir, "environ")) // it has ended: what is asked next says so
	for _, variable := range bytes.Split(data, []byte{0}) {
		if value, ok := strings.CutPrefix(string(variable), name+"="); ok {
			return value
		}
	}
	return ""
}

// exe is the process's program. After an upgrade the file may be gone.
func (r root) exe() string {
	path, _ := os.Readlink(filepath.Join(r.dir, "exe")) // it has ended: what is asked next says so
	return strings.TrimSuffix(path, " (deleted)")
}

// lookup finds a program on containerd's PATH, then in other directories. An absolute name is taken as it is.
func (r root) lookup(name string, more ...string) string {
	if filepath.IsAbs(name) {
		if r.executable(name) {
			return name
		}
		return ""
	}
	for _, dir := range append(filepath.SplitList(r.path), more...) {
		if path := filepath.Join(dir, name); filepath.IsAbs(path) && r.executable(path) {
			return path
		}
	}
	return ""
}

func (r root) executable(path string) bool {
	info, err := os.Stat(r.at(path))
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// beside finds the handler host as the shim does: beside itself, links resolved, then on PATH.
func (r root) beside(ctx context.Context, shim string) string {
	if resolved, err := r.run(ctx, "/usr/bin/readlink", "-f", shim); err == nil {
		shim = strings.TrimSpace(string(resolved))
	}
	path := filepath.Join(filepath.Dir(shim), HostBinary)
	if _, err := os.Stat(r.at(path)); err == nil {
		return path
	}
	return r.lookup(HostBinary)
}

// run runs a program as containerd would see it.
func (r root) run(ctx context.Context, path string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	command := exec.CommandContext(ctx, path, args...)
	command.Env = []string{"PATH=" + r.path}
	command.Dir = "/"
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: filepath.Join(r.dir, "root")}
	command.WaitDelay = answerWithin
	var errOut bytes.Buffer
	command.Stderr = &errOut
	out, err := command.Output()
	if err != nil {
		if words := strings.TrimSpace(errOut.String()); words != "" {
			return nil, fmt.Errorf("%s", words)
		}
		return nil, err
	}
	return out, nil
}

// askVersion runs a program for its version, which also shows that it runs here. Ours answer in one line with it.
func (r root) askVersion(ctx context.Context, p *Program, flag string) {
	if p.Path == "" {
		return
	}
	out, err := r.run(ctx, p.Path, flag)
	if err != nil {
		if p.Name == HostBinary && strings.HasPrefix(err.Error(), "usage: ") {
			return // it runs, and is older than its answer
		}
		p.Err = err.Error()
		return
	}
	fields := strings.Fields(strings.SplitN(string(out), "\n", 2)[0])
	if len(fields) > 1 {
		p.Version = fields[len(fields)-1]
	}
}

// settings are the node's, as that shim reads them.
func (r root) settings(ctx context.Context, shim string) Settings {
	out, err := r.run(ctx, shim, "settings")
	if err != nil {
		return Settings{Err: err.Error()}
	}
	var s Settings
	if err := json.Unmarshal(out, &s); err != nil {
		return Settings{} // of a build that does not tell
	}
	if s.MetricsFile == "" {
		return s
	}
	if err := unix.Access(r.at(filepath.Dir(s.MetricsFile)), unix.W_OK); err != nil {
		s.MetricsErr = filepath.Dir(s.MetricsFile) + ": " + err.Error()
	} else if info, err := os.Stat(r.at(s.MetricsFile)); err == nil && !info.Mode().IsRegular() {
		s.MetricsErr = "it is no file"
	}
	return s
}

// plugins counts the NRI plugins that are connected.
func (r root) plugins(listening func(string) ([]string, error)) int {
	sockets, _ := listening(r.dir)
	table, _ := os.ReadFile(filepath.Join(r.dir, "net", "unix"))
	for _, socket := range sockets {
		if filepath.Base(socket) == nriSocket {
			return connected(table, socket)
		}
	}
	return 0
}
