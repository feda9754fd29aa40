package kubernetes

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// A kubelet, or a containerd, that ends in the middle of a handler, by a crash and in order. These tests come before
// the parallel ones.
func TestRestart(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		name := map[syscall.Signal]string{syscall.SIGKILL: "sigkill", syscall.SIGTERM: "sigterm"}[signal]
		t.Run("kubelet-"+name+"-poststart", func(t *testing.T) { restartDuringPostStart(alone(t), restartKubelet, signal) })
		t.Run("kubelet-"+name+"-prestop", func(t *testing.T) { restartDuringPreStop(alone(t), restartKubelet, signal) })
		t.Run("containerd-"+name+"-poststart", func(t *testing.T) { restartDuringPostStart(alone(t), restartContainerd, signal) })
		t.Run("containerd-"+name+"-prestop", func(t *testing.T) { restartDuringPreStop(alone(t), restartContainerd, signal) })
	}
}

func restartKubelet(b *bench, signal syscall.Signal) {
	b.Helper()
	if err := b.Kubelet.Stop(signal); err != nil {
		b.Fatal(err)
	}
	if err := b.Kubelet.Start(); err != nil {
		b.Fatal(err)
	}
}

func restartContainerd(b *bench, signal syscall.Signal) {
	b.Helper()
	stop := map[syscall.Signal]func() error{syscall.SIGKILL: b.Containerd.Kill, syscall.SIGTERM: b.Containerd.Terminate}[signal]
	if err := stop(); err != nil {
		b.Fatal(err)
	}
	if err := b.Containerd.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// restartDuringPostStart: the start that was under way is lost with who asked for it, as CRI kills that container. The
// next one has its own postStart, the pod becomes Ready and ends in order.
func restartDuringPostStart(b *bench, restart func(*bench, syscall.Signal), signal syscall.Signal) {
	b.Helper()
	p := b.create(nil, container("app", app, handlers(waiting+"echo through >> log", "echo preStop >> log")))
	p.waitFor("begun")
	restart(b, signal)
	b.poll("the next container", func() bool { return p.log() == "start begun start begun" })
	p.touch("go")
	p.ready()
	b.Logf("afterwards:\n%s", b.kubectl("get", "pod", p.name))
	p.delete()
	p.wantLog("start begun start begun through preStop TERM")
}

// restartDuringPreStop: the stop continues, and what the kubelet asks for again is joined to it.
func restartDuringPreStop(b *bench, restart func(*bench, syscall.Signal), signal syscall.Signal) {
	b.Helper()
	p := b.create(nil, container("app", app, handlers("echo postStart >> log", waiting+"echo through >> log")))
	p.ready()
	done := p.deleteLater()
	p.waitFor("begun")
	stops := fmt.Sprintf("StopContainer for \\\"%s\\\" with timeout", p.containerID("app"))
	restart(b, signal)
	b.poll("the kubelet's second stop", func() bool { return strings.Count(b.Containerd.Log(), stops) == 2 })
	p.touch("go")
	p.deleted(done)
	p.wantLog("start postStart begun through TERM")
}
