package apparmor

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	_ "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1" // the schema of the shim's events
)

const (
	profile      = "lifecycle-shim-tests"
	cgroupParent = "/lcs-apparmor"
	// ended is the container's exit status after SIGTERM.
	ended = 7
	// parser loads profiles. It is not where Debian has it (integration/cgroup2): there the CRI plugin would find it, and
	// give profiles to the pods of all tests.
	parser = "/usr/lib/lifecycle-shim-tests/apparmor_parser"
)

// rules allow a container all that it needs, but one file. The flags are those of containerd's default profile
// (contrib/apparmor).
const rules = `
profile ` + profile + ` flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  signal,
  deny /forbidden w,
}
`

// docs/spec.md#privilege: a handler of each kind has its container's profile, whose rules hold for it.
func TestHandlersHaveTheProfileOfTheContainer(t *testing.T) {
	load(t, rules)
	for _, runtime := range []string{"runc", "crun"} {
		t.Run(runtime, func(t *testing.T) {
			c := newContainer(t, runtime)
			if _, _, err := c.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Kill(t.Context(), syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if status, err := c.Wait(t.Context()); err != nil || status != ended {
				t.Fatalf("the container ended with %d, %v", status, err)
			}
			if _, _, err := c.Delete(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, who := range []string{"preStart", "container", "postStart", "preStop", "onExit"} {
				seen, err := os.ReadFile(filepath.Join(c.RootFS, who))
				if got, want := string(seen), profile+" (enforce)\nrefused\n"; got != want || err != nil {
					t.Errorf("%s: %q, %v, want %q", who, got, err, want)
				}
			}
		})
	}
}

// load puts the profiles into the kernel until the test's end.
func load(t *testing.T, rules string) {
	t.Helper()
	run := func(flag string) error {
		command := exec.Command(parser, flag, "--skip-cache")
		command.Stdin = strings.NewReader(rules)
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("%s %s: %w: %s", parser, flag, err, out)
		}
		return nil
	}
	if err := run("--replace"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := run("--remove"); err != nil {
			t.Error(err)
		}
	})
}

// newContainer is one with all handlers, which tell their profile, and try what it forbids.
func newContainer(t *testing.T, runtime string) *harness.Container {
	t.Helper()
	client := newClient(t)
	tell := func(who string) string {
		return fmt.Sprintf("cat /proc/self/attr/current > /%s; touch /forbidden 2> /dev/null || echo refused >> /%s", who, who)
	}
	annotations := map[string]string{}
	for handler, before := range map[string]string{
		"preStart": "", "postStart": "while [ ! -e /ready ]; do sleep 0.02; done; ", "preStop": "", "onExit": "",
	} {
		annotations["lifecycle-shim.io/"+handler] = fmt.Sprintf("exec: {command: [/bin/sh, -c, %q]}", before+tell(handler))
	}
	c, err := client.NewContainer(t.Context(), harness.ContainerConfig{
		ID: "c", Runtime: "io.containerd.lifecycle.v2", CgroupParent: cgroupParent, Annotations: annotations,
		Args:    []string{"/bin/sh", "-c", fmt.Sprintf("trap 'exit %d' TERM; %s; touch /ready; sleep 1000 & wait", ended, tell("container"))},
		Options: &runtimeoptions.Options{ConfigBody: fmt.Appendf(nil, "Root = %q\nBinaryName = %q\n", client.runcRoot, runtime)},
		Edit:    func(spec *specs.Spec) { spec.Process.ApparmorProfile = profile },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// client of a daemon of the test's own.
type client struct {
	*harness.Client
	runcRoot string
}

// newClient starts the daemon. The test's end closes it, with all that is in it.
func newClient(t *testing.T) client {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	d, err := harness.StartDaemon(t.Context(), harness.DaemonConfig{Server: harness.Servers(bin)[0], BinDir: bin, Debug: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(d.LogTail())
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		harness.RemoveCgroupParent(cgroupParent)
	})
	c, err := d.Client("apparmor")
	if err != nil {
		t.Fatal(err)
	}
	return client{Client: c, runcRoot: d.RuncRoot}
}
