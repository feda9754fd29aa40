package cri

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

func named(name string) func(*harness.PodContainerConfig) {
	return func(config *harness.PodContainerConfig) { config.Name = name }
}

// docs/spec.md#key-order: in one pod each container has the handlers of the key that names it,
// and one that is not named those of the general key.
func TestCRINamedKeys(t *testing.T) {
	b := bed.OnCRI(t)
	handlers := func(name string) string {
		return "{postStart: {" + bed.Shell("echo "+name+" > postStart") + "}, preStop: {" + bed.Shell("echo "+name+" >> signals") + "}}"
	}
	pod := b.Pod(bed.Annotations{
		bed.KeyLifecycle: handlers("general"), "first." + bed.KeyLifecycle: handlers("first"), "second." + bed.KeyLifecycle: handlers("second"),
		"absent." + bed.KeyLifecycle: "no matter what", // another container's
	})
	containers := map[string]*bed.PodContainer{
		"first": b.Create(pod, bed.Obedient, named("first")), "second": b.Create(pod, bed.Obedient, named("second")), "general": b.Create(pod, bed.Obedient, named("third")),
	}
	for want, c := range containers {
		c.MustStart()
		if got := c.Read("postStart"); got != want+"\n" {
			b.Errorf("postStart of %q ran in the container of %q", got, want)
		}
	}
	stops := map[string]<-chan bed.Answer{}
	for want, c := range containers {
		c.WaitFor("ready")
		stops[want] = c.StopLater(60 * time.Second)
	}
	for want, c := range containers {
		c.Stopped(stops[want])
		c.WantExit(7)
		c.WantSignals(want + "\nTERM\n")
	}
}

// The kubelet starts a pod's containers one after the other: with the start held,
// the second waits for the first one's postStart, as sidecars need it.
func TestCRISecondContainerWaitsForPostStart(t *testing.T) {
	b := bed.OnCRI(t)
	pod := b.Pod(bed.Annotations{"sidecar." + bed.KeyLifecycle: "{postStart: {" + bed.Shell(bed.WaitForGo+"touch ended") + "}}"})
	sidecar := b.Create(pod, bed.Obedient, named("sidecar"))
	main := b.Create(pod, []string{"/bin/sh", "-c", "ls > seen; touch main-ready; sleep 1000"}, named("main"), func(config *harness.PodContainerConfig) {
		config.Dir = sidecar.Dir
	})
	starts := bed.Later(func() (time.Duration, error) {
		for _, c := range []*bed.PodContainer{sidecar, main} {
			if _, err := c.Start(b.Context()); err != nil {
				return 0, err
			}
		}
		return 0, nil
	})
	sidecar.WaitFor("begun")
	sidecar.WantState(cri.ContainerState_CONTAINER_CREATED)
	main.WantState(cri.ContainerState_CONTAINER_CREATED)
	sidecar.Touch("go")
	if r := bed.Await(b.T, starts); r.Err != nil {
		b.Fatal(r.Err)
	}
	main.WaitFor("main-ready")
	if seen := main.Read("seen"); !strings.Contains(seen, "ended\n") {
		b.Errorf("the second container was started before postStart's end; it saw:\n%s", seen)
	}
}

// docs/spec.md#one-handler: handlers of different containers never wait for each other, although
// one shim serves the pod.
func TestCRIHeldStartHoldsNoOtherContainer(t *testing.T) {
	b := bed.OnCRI(t)
	pod := b.Pod(bed.Annotations{"held." + bed.KeyLifecycle: "{postStart: {" + bed.Shell(bed.WaitForGo) + "}}", "other." + bed.KeyLifecycle: "{preStop: {" + bed.Shell("echo preStop >> signals") + "}}"})
	held, other := b.Create(pod, bed.Obedient, named("held")), b.Create(pod, bed.Obedient, named("other"))
	result := held.Hold()
	other.MustStart()
	other.WaitFor("ready")
	other.MustStop(60 * time.Second)
	other.WantExit(7)
	other.WantSignals("preStop\nTERM\n")
	held.WantState(cri.ContainerState_CONTAINER_CREATED)
	held.Touch("go")
	if r := bed.Await(b.T, result); r.Err != nil {
		b.Fatal(r.Err)
	}
}

// A pod with a network and one with its own pid namespace, where the pause
// container is pid 1: handlers run there as elsewhere.
func TestCRIPodNamespaces(t *testing.T) {
	for name, edit := range map[string]func(*harness.PodConfig){
		"own network": func(config *harness.PodConfig) { config.HostNetwork = false },
		"shared pids": func(config *harness.PodConfig) { config.SharedPID = true },
	} {
		t.Run(name, func(t *testing.T) {
			b := bed.OnCRI(t)
			look := "for ns in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$ns; done > "
			block := "{postStart: {" + bed.Shell(look+"postStart") + "}, preStop: {" + bed.Shell(look+"preStop") + "}}"
			c := b.Create(b.Pod(bed.Annotations{bed.KeyLifecycle: block}, edit), []string{"/bin/sh", "-c", look + "init; " + bed.Obedient[2]})
			c.MustStart()
			c.WaitFor("ready")
			c.MustStop(60 * time.Second)
			c.WantExit(7)
			for _, handler := range []string{"postStart", "preStop"} {
				if own, its := c.Read("init"), c.Read(handler); own != its {
					b.Errorf("namespaces of the container:\n%s\nof %s:\n%s", own, handler, its)
				}
			}
		})
	}
}

// docs/spec.md#user-namespaces, docs/spec.md#privilege: a handler's root is the container's, not the
// host's.
func TestCRIUserNamespace(t *testing.T) {
	b := bed.OnCRI(t)
	look := "(id -u; cat /proc/self/uid_map) > "
	block := "{postStart: {" + bed.Shell(look+"postStart") + "}, preStop: {" + bed.Shell(look+"preStop; echo preStop >> signals") + "}}"
	c := b.Create(b.Pod(bed.Annotations{bed.KeyLifecycle: block}, func(config *harness.PodConfig) {
		config.Handler, config.UserNamespace, config.HostNetwork = bed.HandlerUserNS, true, false
	}), bed.Obedient)
	c.MustStart()
	c.WaitFor("ready")
	c.MustStop(60 * time.Second)
	c.WantExit(7)
	c.WantSignals("preStop\nTERM\n")
	for _, handler := range []string{"postStart", "preStop"} {
		if got := strings.Fields(c.Read(handler)); strings.Join(got, " ") != "0 0 1000000 65536" {
			b.Errorf("%s: user and map %q, want root in the pod's own users", handler, got)
		}
	}
}

// docs/spec.md#invalid: a value that cannot be used fails the creation, which is part of
// StartContainer here, with a message; nothing of it is left, and the pod continues.
func TestCRIWrongAnnotations(t *testing.T) {
	for name, test := range map[string]struct {
		annotations bed.Annotations
		words       []string
	}{
		"no YAML":           {bed.Annotations{bed.KeyLifecycle: "{postStart: "}, []string{bed.KeyLifecycle}},
		"unknown field":     {bed.Annotations{bed.KeyLifecycle: "{postStart: {exec: {command: [a], shell: true}}}"}, []string{bed.KeyLifecycle, "postStart.exec", "shell"}},
		"two handlers":      {bed.Annotations{bed.KeyLifecycle: "{preStop: {exec: {command: [a]}, sleep: {seconds: 1}}}"}, []string{bed.KeyLifecycle, "preStop"}},
		"unknown key":       {bed.Annotations{"lifecycle-shim.io/poststart": "{}"}, []string{"lifecycle-shim.io/poststart", "not a known key", bed.KeyLifecycle}},
		"unknown named key": {bed.Annotations{"app.lifecycle-shim.io/preStop": "{}"}, []string{"app.lifecycle-shim.io/preStop", "not a known key", "app." + bed.KeyLifecycle}},
		"both forms":        {bed.Annotations{bed.KeyLifecycle: "{}", bed.KeyPreStop: "exec: {command: [a]}"}, []string{bed.KeyLifecycle, bed.KeyPreStop, "cannot be used together"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := bed.OnCRI(t)
			pod := b.Pod(test.annotations)
			c := b.Create(pod, bed.Obedient)
			_, err := c.Start(b.Context())
			c.WantFailedStart(err, test.words...)
			wantNothingOf(b, c)
			if err := c.Remove(b.Context()); err != nil {
				b.Error(err)
			}
			if state, err := pod.State(b.Context()); err != nil || state != cri.PodSandboxState_SANDBOX_READY {
				b.Errorf("the pod is %s (%v), want it ready for the next try", state, err)
			}
		})
	}
}

// wantNothingOf a container that never was: no task, bundle, cgroup or state of
// runc's.
func wantNothingOf(b *bed.PodBench, c *bed.PodContainer) {
	b.Helper()
	if _, err := c.Task().State(b.Context()); !errdefs.IsNotFound(err) {
		b.Errorf("the task: %v, want none", err)
	}
	for _, path := range []string{
		filepath.Join(b.Daemon.Dir, "state/io.containerd.runtime.v2.task/k8s.io", c.ID),
		filepath.Join(b.Daemon.RuncRoot, "k8s.io", c.ID),
	} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			b.Errorf("%s: %v, want nothing there", path, err)
		}
	}
	now, err := b.Watch.TakeSnapshot()
	if err != nil {
		b.Fatal(err)
	}
	for what := range now {
		if strings.Contains(what, c.ID) {
			b.Errorf("left behind: %s", what)
		}
	}
}

// A container is stopped and made anew, as the kubelet does for
// one that has failed: the handlers run again.
func TestCRIContainerIsRestarted(t *testing.T) {
	b := bed.OnCRI(t)
	pod := b.Pod(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell("echo postStart >> signals") + "}, preStop: {" + bed.Shell("echo preStop >> signals") + "}}"})
	dir := b.TempDir()
	for range 2 {
		c := b.Create(pod, bed.Obedient, func(config *harness.PodContainerConfig) { config.Dir = dir })
		c.MustStart()
		c.WaitFor("ready")
		c.MustStop(60 * time.Second)
		c.WantExit(7)
		if err := c.Remove(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(c.Path("ready")); err != nil {
			b.Fatal(err)
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, "signals"))
	if want := "postStart\npreStop\nTERM\n"; err != nil || string(got) != want+want {
		b.Errorf("signals %q (%v), want %q twice", got, err, want)
	}
}
