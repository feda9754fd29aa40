package integration

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// docs/spec.md#start-client, docs/spec.md#stop-restart: containerd restarts, by SIGTERM. During postStart CRI cancels the start
// as it ends. Whether its SIGKILL comes to be sent is a race with that end; if not, CRI
// calls the container unknown, and the kubelet stops it.
func TestCRIDaemonTerminated(t *testing.T) {
	b := onOwnCRI(t)
	b.restartDuringPostStart(b.daemon.Terminate)
	b.restartDuringPreStop(b.daemon.Terminate)
}

// docs/spec.md#start-client, docs/spec.md#stop-restart: containerd dies, by a crash. During postStart it finds a container, when
// it is back, that was only created, and ends it.
func TestCRIDaemonKilled(t *testing.T) {
	b := onOwnCRI(t)
	b.restartDuringPostStart(b.daemon.Kill)
	b.restartDuringPreStop(b.daemon.Kill)
}

// restartDuringPostStart goes on as the kubelet does: the pod gets a new container.
func (b *podBench) restartDuringPostStart(stop func() error) {
	b.Helper()
	pod := b.pod(with{keyLifecycle: "{postStart: {" + shell(waiting) + "}, preStop: {" + shell("touch stopped") + "}}"})
	c := b.create(pod, obedient)
	result := c.hold()
	c.waitFor("ready")
	if err := stop(); err != nil {
		b.Fatal(err)
	}
	if r := answer(b.T, result); r.err == nil {
		b.Error("the client is told success by a daemon that has gone")
	}
	if err := b.daemon.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	if c.status().State == cri.ContainerState_CONTAINER_UNKNOWN {
		c.stop(limit)
	} else if c.exists("stopped") {
		b.Error("preStop has run for a SIGKILL")
	}
	c.wantGone()
	if state := c.status().State; state == cri.ContainerState_CONTAINER_RUNNING {
		b.Errorf("CRI says %s of a container that is gone", state)
	}
	if err := c.Remove(b.Context()); err != nil {
		b.Fatal(err)
	}
	again := b.create(pod, obedient)
	next := again.hold()
	again.touch("go")
	if r := answer(b.T, next); r.err != nil {
		b.Fatal(r.err)
	}
	again.wantState(cri.ContainerState_CONTAINER_RUNNING)
}

// restartDuringPreStop: the stop goes on, and the second SIGTERM, which the kubelet's next
// StopContainer brings, is joined.
func (b *podBench) restartDuringPreStop(stop func() error) {
	b.Helper()
	c := b.run("{preStop: {"+shell(waiting+"echo preStop >> signals")+"}}", obedient)
	lost := c.stopLater(60 * time.Second)
	c.waitFor("begun")
	if err := stop(); err != nil {
		b.Fatal(err)
	}
	if r := answer(b.T, lost); r.err == nil {
		b.Error("the client is told success by a daemon that has gone")
	}
	if err := b.daemon.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	c.wantState(cri.ContainerState_CONTAINER_RUNNING)
	again := c.stopLater(60 * time.Second)
	poll(b.T, "the second SIGTERM", func() bool {
		return strings.Count(b.daemon.Log(), fmt.Sprintf(`Stop container \"%s\" with signal terminated`, c.ID)) == 2
	})
	c.touch("go")
	c.stopped(again)
	c.wantExit(7)
	c.wantSignals("preStop\nTERM\n")
}

// docs/spec.md#shim-dies: nothing of the pod survives it, and CRI says so.
func TestCRIShimDies(t *testing.T) {
	b := onOwnCRI(t)
	b.watch.ShimsKilled = true
	pod := b.pod(with{keyLifecycle: "{preStop: {" + shell("touch begun; sleep 1000") + "}}"}, func(config *harness.PodConfig) { config.SharedPID = true })
	c := b.create(pod, forever)
	c.start()
	c.waitFor("ready")
	stop := c.stopLater(60 * time.Second)
	c.waitFor("begun")
	shims, err := b.daemon.Shims()
	if err != nil || len(shims) != 1 || !slices.Contains(shims[0].Cmdline, pod.ID) {
		b.Fatalf("shims %v, %v: want the pod's", shims, err)
	}
	if err := syscall.Kill(shims[0].PID, syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	if r := answer(b.T, stop); r.err != nil {
		b.Errorf("the stop, whose container is gone: %v", r.err)
	}
	c.wantGone()
	poll(b.T, "CRI to say so", func() bool { return c.status().State == cri.ContainerState_CONTAINER_EXITED })
	c.wantSignals("")
	poll(b.T, "the pod's removal", func() bool { return pod.Remove(b.Context()) == nil }) // the kubelet tries again too
}
