package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
)

// lookup finds a program on a PATH, then in other directories, as containerd does. An absolute name is not searched for.
// It returns "" if the program is not found.
func lookup(name, path string, more ...string) string {
	if filepath.IsAbs(name) {
		if executable(name) {
			return name
		}
		return ""
	}
	for _, dir := range append(filepath.SplitList(path), more...) {
		if path := filepath.Join(dir, name); filepath.IsAbs(path) && executable(path) {
			return path
		}
	}
	return ""
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// beside finds the handler host as the shim does: beside the shim with its links resolved, then on PATH.
func beside(shim, path string) string {
	if resolved, err := filepath.EvalSymlinks(shim); err == nil {
		shim = resolved
	}
	host := filepath.Join(filepath.Dir(shim), hostBinary)
	if _, err := os.Stat(host); err == nil {
		return host
	}
	return lookup(hostBinary, path)
}

// Bounds of a program's output, in bytes. A configuration has a few thousand.
const (
	maxOutput = 4 << 20
	maxError  = 4 << 10
)

// run runs a program if only root can replace it, regardless of where its path comes from.
func run(ctx context.Context, path string, args ...string) ([]byte, error) {
	resolved, err := trust.Program(path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	out, errOut := &trust.Head{Most: maxOutput}, &trust.Head{Most: maxError}
	command := exec.CommandContext(ctx, resolved, args...)
	command.Args[0] = path // busybox and k3s act on this name
	command.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	command.Dir = "/"
	command.Stdout, command.Stderr = out, errOut
	command.WaitDelay = answerWithin
	if err := command.Run(); err != nil {
		if words := strings.TrimSpace(errOut.String()); words != "" {
			return nil, errors.New(words)
		}
		return nil, err
	}
	return []byte(out.String()), nil
}

// askVersion runs a program to get its version, which also shows that it can run here. The last word of its first line is the version.
func askVersion(ctx context.Context, p *Program, flag string) {
	if p.Path == "" {
		return
	}
	out, err := run(ctx, p.Path, flag)
	if err != nil {
		if p.Name == hostBinary && strings.HasPrefix(err.Error(), "usage: ") {
			return // it runs, but its build cannot report a version
		}
		p.Err = err.Error()
		return
	}
	fields := strings.Fields(strings.SplitN(string(out), "\n", 2)[0])
	if len(fields) > 1 {
		p.Version = fields[len(fields)-1]
	}
}

// settings returns the node's settings as the shim reads them.
func settings(ctx context.Context, shim string) Settings {
	out, err := run(ctx, shim, "settings")
	if err != nil {
		return Settings{Err: err.Error()}
	}
	var s Settings
	if err := json.Unmarshal(out, &s); err != nil {
		return Settings{} // its build cannot report them
	}
	if s.MetricsFile == "" {
		return s
	}
	if err := unix.Access(filepath.Dir(s.MetricsFile), unix.W_OK); err != nil {
		s.MetricsErr = filepath.Dir(s.MetricsFile) + ": " + err.Error()
	} else if info, err := os.Stat(s.MetricsFile); err == nil && !info.Mode().IsRegular() {
		s.MetricsErr = "it is not a regular file"
	}
	return s
}

// plugins counts the connected NRI plugins.
func plugins(process *trust.Process) int {
	sockets, err := trust.ReadSockets()
	if err != nil {
		return 0
	}
	for _, socket := range sockets.ListenedBy(process) {
		if filepath.Base(socket) == nriSocket {
			return sockets.Connections(process, socket)
		}
	}
	return 0
}
