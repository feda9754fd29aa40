package cri

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/lifecycle-shim/lifecycle-shim/integration/bed"
	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// docs/spec.md#start-client, docs/spec.md#stop-restart: containerd restarts, by SIGTERM. During postStart CRI cancels the start
// as it ends. Whether its SIGKILL is sent is a race with that end; if not, CRI
// calls the container unknown, and the kubelet stops it.
func TestCRIDaemonTerminated(t *testing.T) {
	b := bed.OnOwnCRI(t)
	restartDuringPostStart(b, b.Daemon.Terminate)
	restartDuringPreStop(b, b.Daemon.Terminate)
}

// docs/spec.md#start-client, docs/spec.md#stop-restart: containerd dies, by a crash. During postStart it finds a container, when
// it is back, that was only created, and ends it.
func TestCRIDaemonKilled(t *testing.T) {
	b := bed.OnOwnCRI(t)
	restartDuringPostStart(b, b.Daemon.Kill)
	restartDuringPreStop(b, b.Daemon.Kill)
}

// restartDuringPostStart continues as the kubelet does: the pod gets a new container.
func restartDuringPostStart(b *bed.PodBench, stop func() error) {
	b.Helper()
	pod := b.Pod(bed.Annotations{bed.KeyLifecycle: "{postStart: {" + bed.Shell(bed.WaitForGo) + "}, preStop: {" + bed.Shell("touch stopped") + "}}"})
	c := b.Create(pod, bed.Obedient)
	result := c.Hold()
	c.WaitFor("ready")
	if err := stop(); err != nil {
		b.Fatal(err)
	}
	if r := bed.Await(b.T, result); r.Err == nil {
		b.Error("the client got success from a daemon that has gone")
	}
	if err := b.Daemon.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	if c.MustStatus().State == cri.ContainerState_CONTAINER_UNKNOWN {
		c.MustStop(bed.Limit)
	} else if c.Exists("stopped") {
		b.Error("preStop has run for a SIGKILL")
	}
	c.WantGone()
	if state := c.MustStatus().State; state == cri.ContainerState_CONTAINER_RUNNING {
		b.Errorf("CRI says %s of a container that is gone", state)
	}
	if err := c.Remove(b.Context()); err != nil {
		b.Fatal(err)
	}
	again := b.Create(pod, bed.Obedient)
	next := again.Hold()
	again.Touch("go")
	if r := bed.Await(b.T, next); r.Err != nil {
		b.Fatal(r.Err)
	}
	again.WantState(cri.ContainerState_CONTAINER_RUNNING)
}

// restartDuringPreStop: the stop continues, and the second SIGTERM, which the kubelet's next
// StopContainer brings, is joined.
func restartDuringPreStop(b *bed.PodBench, stop func() error) {
	b.Helper()
	c := b.RunApp("{preStop: {"+bed.Shell(bed.WaitForGo+"echo preStop >> signals")+"}}", bed.Obedient)
	lost := c.StopLater(60 * time.Second)
	c.WaitFor("begun")
	if err := stop(); err != nil {
		b.Fatal(err)
	}
	if r := bed.Await(b.T, lost); r.Err == nil {
		b.Error("the client got success from a daemon that has gone")
	}
	if err := b.Daemon.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	c.WantState(cri.ContainerState_CONTAINER_RUNNING)
	again := c.StopLater(60 * time.Second)
	bed.Poll(b.T, "the second SIGTERM", func() bool {
		return strings.Count(b.Daemon.Log(), fmt.Sprintf(`Stop container \"%s\" with signal terminated`, c.ID)) == 2
	})
	c.Touch("go")
	c.Stopped(again)
	c.WantExit(7)
	c.WantSignals("preStop\nTERM\n")
}

// docs/spec.md#shim-dies: nothing of the pod survives it, and CRI says so.
func TestCRIShimDies(t *testing.T) {
	b := bed.OnOwnCRI(t)
	b.Watch.ShimsKilled = true
	pod := b.Pod(bed.Annotations{bed.KeyLifecycle: "{preStop: {" + bed.Shell("touch begun; sleep 1000") + "}}"}, func(config *harness.PodConfig) { config.SharedPID = true })
	c := b.Create(pod, bed.Forever)
	c.MustStart()
	c.WaitFor("ready")
	stop := c.StopLater(60 * time.Second)
	c.WaitFor("begun")
	shims, err := b.Daemon.Shims()
	if err != nil || len(shims) != 1 || !slices.Contains(shims[0].Cmdline, pod.ID) {
		b.Fatalf("shims %v, %v: want the pod's", shims, err)
	}
	if err := syscall.Kill(shims[0].PID, syscall.SIGKILL); err != nil {
		b.Fatal(err)
	}
	if r := bed.Await(b.T, stop); r.Err != nil {
		b.Errorf("the stop, whose container is gone: %v", r.Err)
	}
	c.WantGone()
	bed.Poll(b.T, "CRI to say so", func() bool { return c.MustStatus().State == cri.ContainerState_CONTAINER_EXITED })
	c.WantSignals("")
	bed.Poll(b.T, "the pod's removal", func() bool { return pod.Remove(b.Context()) == nil }) // the kubelet tries again too
}
