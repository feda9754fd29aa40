package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/lifecycle-shim/lifecycle-shim/cmd/internal/trust"
	"github.com/lifecycle-shim/lifecycle-shim/cmd/lifecyclectl/doctor"
)

// Bounds of a program that is asked: its time, its output and its errors in bytes.
const (
	answerWithin = 20 * time.Second
	maxOutput    = 4 << 20
	maxError     = 2 << 10
)

// containerd is the program of a containerd, a path without links.
type containerd struct{ program string }

// run executes it. The programs of k3s and rke2 are many in one, and act on the name in their first argument.
func (c containerd) run(ctx context.Context, args ...string) ([]byte, error) {
	program, err := trust.Program(c.program)
	if err != nil {
		return nil, err
	}
	return execute(ctx, "containerd", program, args...)
}

// execute runs a program by its path, under another name.
func execute(ctx context.Context, name, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	out, errOut := &trust.Head{Most: maxOutput}, &trust.Head{Most: maxError}
	command := exec.CommandContext(ctx, program, args...)
	command.Args[0] = name
	command.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
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

// version returns the third word of --version, such as 2.4.2 or 1.6.20~ds1.
func (c containerd) version(ctx context.Context) (string, error) {
	out, err := c.run(ctx, "--version")
	if err != nil {
		return "", err
	}
	words := strings.Fields(string(out))
	if len(words) < 3 {
		return "", fmt.Errorf("it prints %q", out[:min(len(out), maxError)])
	}
	return strings.TrimPrefix(words[2], "v"), nil
}

// verify has containerd's own program read a configuration, and looks for the handler.
func (c containerd) verify(ctx context.Context, config string, want Handler) *Failure {
	out, err := c.run(ctx, "--config", config, "config", "dump")
	if err != nil {
		return fail(StepVerify, "", "containerd cannot read %s with the handler: %s", config, err)
	}
	dump, disabled, err := doctor.ParseDump(out)
	switch {
	case err != nil:
		return fail(StepVerify, "", "cannot verify %s: %s", config, err)
	case disabled:
		return disablesCRI(config)
	case !want.in(dump):
		return fail(StepVerify, "", "containerd does not see the handler in its configuration %s", config)
	}
	return nil
}

// verifyPreview does the same with a configuration that is not a file yet.
func (c containerd) verifyPreview(ctx context.Context, preview []byte, want Handler) *Failure {
	file, err := os.CreateTemp("", "lifecycle-shim-preview-*.toml") // mode 0600, in a directory where only its owner can replace it
	if err != nil {
		return fail(StepVerify, "", "cannot write the preview of the configuration: %s", err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	_, err = file.Write(preview)
	if err = errors.Join(err, file.Close()); err != nil {
		return fail(StepVerify, "", "cannot write the preview of the configuration: %s", err)
	}
	return c.verify(ctx, file.Name(), want)
}

// in reports whether containerd has the handler as it is wanted.
func (h Handler) in(cri *doctor.CRI) bool {
	r, ok := cri.Runtimes[handlerName]
	if !ok || r.Type != h.Type || r.Path != h.Path || !slices.Equal(r.PodAnnotations, podAnnotations) || !slices.Equal(r.ContainerAnnotations, containerAnnotations) {
		return false
	}
	isSystemd, _ := r.Options["SystemdCgroup"].(bool)
	return h.Driver == "" || isSystemd == (h.Driver == systemd)
}
