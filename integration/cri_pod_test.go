package integration

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

func named(name string) func(*harness.PodContainerConfig) {
	return func(config *harness.PodContainerConfig) { config.Name = name }
}

// docs/spec.md#key-order: in one pod each container has the handlers of the key that names it,
// and one that is not named those of the general key.
func TestCRINamedKeys(t *testing.T) {
	b := onCRI(t)
	handlers := func(name string) string {
		return "{postStart: {" + shell("echo "+name+" > postStart") + "}, preStop: {" + shell("echo "+name+" >> signals") + "}}"
	}
	pod := b.pod(with{
		keyLifecycle: handlers("general"), "first." + keyLifecycle: handlers("first"), "second." + keyLifecycle: handlers("second"),
		"absent." + keyLifecycle: "no matter what", // another container's
	})
	containers := map[string]*podContainer{
		"first": b.create(pod, obedient, named("first")), "second": b.create(pod, obedient, named("second")), "general": b.create(pod, obedient, named("third")),
	}
	for want, c := range containers {
		c.start()
		if got := c.read("postStart"); got != want+"\n" {
			b.Errorf("postStart of %q ran in the container of %q", got, want)
		}
	}
	stops := map[string]<-chan started{}
	for want, c := range containers {
		c.waitFor("ready")
		stops[want] = c.stopLater(60 * time.Second)
	}
	for want, c := range containers {
		c.stopped(stops[want])
		c.wantExit(7)
		c.wantSignals(want + "\nTERM\n")
	}
}

// The kubelet starts a pod's containers one after the other: with the start held,
// the second waits for the first one's postStart, as sidecars need it.
func TestCRISecondContainerWaitsForPostStart(t *testing.T) {
	b := onCRI(t)
	pod := b.pod(with{"sidecar." + keyLifecycle: "{postStart: {" + shell(waiting+"touch ended") + "}}"})
	sidecar := b.create(pod, obedient, named("sidecar"))
	main := b.create(pod, []string{"/bin/sh", "-c", "ls > seen; touch main-ready; sleep 1000"}, named("main"), func(config *harness.PodContainerConfig) {
		config.Dir = sidecar.dir
	})
	starts := later(func() (time.Duration, error) {
		for _, c := range []*podContainer{sidecar, main} {
			if _, err := c.Start(b.Context()); err != nil {
				return 0, err
			}
		}
		return 0, nil
	})
	sidecar.waitFor("begun")
	sidecar.wantState(cri.ContainerState_CONTAINER_CREATED)
	main.wantState(cri.ContainerState_CONTAINER_CREATED)
	sidecar.touch("go")
	if r := answer(b.T, starts); r.err != nil {
		b.Fatal(r.err)
	}
	main.waitFor("main-ready")
	if seen := main.read("seen"); !strings.Contains(seen, "ended\n") {
		b.Errorf("the second container was started before postStart's end; it saw:\n%s", seen)
	}
}

// docs/spec.md#one-handler: handlers of different containers never wait for each other, although
// one shim serves the pod.
func TestCRIHeldStartHoldsNoOtherContainer(t *testing.T) {
	b := onCRI(t)
	pod := b.pod(with{"held." + keyLifecycle: "{postStart: {" + shell(waiting) + "}}", "other." + keyLifecycle: "{preStop: {" + shell("echo preStop >> signals") + "}}"})
	held, other := b.create(pod, obedient, named("held")), b.create(pod, obedient, named("other"))
	result := held.hold()
	other.start()
	other.waitFor("ready")
	other.stop(60 * time.Second)
	other.wantExit(7)
	other.wantSignals("preStop\nTERM\n")
	held.wantState(cri.ContainerState_CONTAINER_CREATED)
	held.touch("go")
	if r := answer(b.T, result); r.err != nil {
		b.Fatal(r.err)
	}
}

// A pod with a network and one with a pid namespace of its own, where the pause
// container is pid 1: handlers run there as elsewhere.
func TestCRIPodNamespaces(t *testing.T) {
	for name, edit := range map[string]func(*harness.PodConfig){
		"network of its own": func(config *harness.PodConfig) { config.HostNetwork = false },
		"shared pids":        func(config *harness.PodConfig) { config.SharedPID = true },
	} {
		t.Run(name, func(t *testing.T) {
			b := onCRI(t)
			look := "for ns in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$ns; done > "
			block := "{postStart: {" + shell(look+"postStart") + "}, preStop: {" + shell(look+"preStop") + "}}"
			c := b.create(b.pod(with{keyLifecycle: block}, edit), []string{"/bin/sh", "-c", look + "init; " + obedient[2]})
			c.start()
			c.waitFor("ready")
			c.stop(60 * time.Second)
			c.wantExit(7)
			for _, handler := range []string{"postStart", "preStop"} {
				if own, its := c.read("init"), c.read(handler); own != its {
					b.Errorf("namespaces of the container:\n%s\nof %s:\n%s", own, handler, its)
				}
			}
		})
	}
}

// docs/spec.md#user-namespaces, docs/spec.md#privilege: a handler's root is the container's, not the
// host's.
func TestCRIUserNamespace(t *testing.T) {
	b := onCRI(t)
	look := "(id -u; cat /proc/self/uid_map) > "
	block := "{postStart: {" + shell(look+"postStart") + "}, preStop: {" + shell(look+"preStop; echo preStop >> signals") + "}}"
	c := b.create(b.pod(with{keyLifecycle: block}, func(config *harness.PodConfig) {
		config.Handler, config.UserNamespace, config.HostNetwork = handlerUserNS, true, false
	}), obedient)
	c.start()
	c.waitFor("ready")
	c.stop(60 * time.Second)
	c.wantExit(7)
	c.wantSignals("preStop\nTERM\n")
	for _, handler := range []string{"postStart", "preStop"} {
		if got := strings.Fields(c.read(handler)); strings.Join(got, " ") != "0 0 1000000 65536" {
			b.Errorf("%s: user and map %q, want root in the pod's own users", handler, got)
		}
	}
}

// docs/spec.md#invalid: a value that cannot be used fails the creation, which is part of
// StartContainer here, with words; nothing of it is left, and the pod goes on.
func TestCRIWrongAnnotations(t *testing.T) {
	for name, test := range map[string]struct {
		annotations with
		words       []string
	}{
		"no YAML":           {with{keyLifecycle: "{postStart: "}, []string{keyLifecycle}},
		"unknown field":     {with{keyLifecycle: "{postStart: {exec: {command: [a], shell: true}}}"}, []string{keyLifecycle, "postStart.exec", "shell"}},
		"two handlers":      {with{keyLifecycle: "{preStop: {exec: {command: [a]}, sleep: {seconds: 1}}}"}, []string{keyLifecycle, "preStop"}},
		"unknown key":       {with{"lifecycle-shim.io/poststart": "{}"}, []string{"lifecycle-shim.io/poststart", "not a known key", keyLifecycle}},
		"unknown named key": {with{"app.lifecycle-shim.io/preStop": "{}"}, []string{"app.lifecycle-shim.io/preStop", "not a known key", "app." + keyLifecycle}},
		"both forms":        {with{keyLifecycle: "{}", keyPreStop: "exec: {command: [a]}"}, []string{keyLifecycle, keyPreStop, "cannot be used together"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := onCRI(t)
			pod := b.pod(test.annotations)
			c := b.create(pod, obedient)
			_, err := c.Start(b.Context())
			c.wantFailedStart(err, test.words...)
			b.wantNothingOf(c)
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
func (b *podBench) wantNothingOf(c *podContainer) {
	b.Helper()
	if _, err := c.Task().State(b.Context()); !errdefs.IsNotFound(err) {
		b.Errorf("the task: %v, want none", err)
	}
	for _, path := range []string{
		filepath.Join(b.daemon.Dir, "state/io.containerd.runtime.v2.task/k8s.io", c.ID),
		filepath.Join(b.daemon.RuncRoot, "k8s.io", c.ID),
	} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			b.Errorf("%s: %v, want nothing there", path, err)
		}
	}
	now, err := b.watch.TakeSnapshot()
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
	b := onCRI(t)
	pod := b.pod(with{keyLifecycle: "{postStart: {" + shell("echo postStart >> signals") + "}, preStop: {" + shell("echo preStop >> signals") + "}}"})
	dir := b.TempDir()
	for range 2 {
		c := b.create(pod, obedient, func(config *harness.PodContainerConfig) { config.Dir = dir })
		c.start()
		c.waitFor("ready")
		c.stop(60 * time.Second)
		c.wantExit(7)
		if err := c.Remove(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(c.path("ready")); err != nil {
			b.Fatal(err)
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, "signals"))
	if want := "postStart\npreStop\nTERM\n"; err != nil || string(got) != want+want {
		b.Errorf("signals %q (%v), want %q twice", got, err, want)
	}
}
