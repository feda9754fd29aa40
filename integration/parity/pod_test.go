package parity

import (
	"syscall"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// inPod makes containers share a shim, by one of the two annotations that do.
func inPod(key, pod string) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) {
		config.Annotations[key] = pod
	}
}

var podScenarios = []scenario{
	{name: "pod", about: "three containers of one shim: each its own life, the shim ends with the last", ways: []way{byDaemon}, program: func(p *program) {
		for _, key := range []string{group, "io.kubernetes.cri.sandbox-id"} {
			pod := p.id(key[:9])
			first := p.run(key[:9]+"-1", obedient, inPod(key, pod))
			second := p.run(key[:9]+"-2", obedient, inPod(key, pod))
			third := p.container(key[:9]+"-3", exits("3"), inPod(key, pod))
			first.alone, third.alone = false, false
			third.create()
			first.ready()
			second.ready()
			if first.parent() != second.parent() || second.parent() != third.parent() {
				p.twoShims = true
				return
			}
			third.start()
			third.wait()
			third.delete()
			third.await("/tasks/delete")
			first.kill(syscall.SIGTERM)
			first.wait()
			first.delete()
			first.await("/tasks/delete")
			second.state()
			shim := second.parent()
			second.kill(syscall.SIGTERM)
			second.wait()
			second.delete()
			p.awaitEnd(shim)
		}
	}},
	{name: "its own shim", about: "the shim ends with its container, and after a Create that fails", ways: []way{byDaemon}, program: func(p *program) {
		c := p.run("a", obedient)
		c.ready()
		shim := c.parent()
		c.kill(syscall.SIGTERM)
		c.wait()
		c.delete()
		p.awaitEnd(shim)
		failed := p.container("b", []string{"/none"})
		failed.create()
		failed.state()
	}},
	{name: "the shim is killed", about: "containerd tidies up with the shim's delete action: TaskExit with 137, TaskDelete, nothing left", ways: []way{bySocket}, program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.await("/tasks/start")
		p.must(syscall.Kill(c.shim, syscall.SIGKILL))
		c.awaitExit()
		c.await("/tasks/delete")
		p.poll("the end of the task", func() bool {
			_, err := daemonAPI{client: p.client}.do(p.Context(), &taskapi.StateRequest{ID: c.id})
			return err != nil
		})
		c.created = false
		c.doBy(daemonAPI{client: p.client}, c.label("State", ""), &taskapi.StateRequest{ID: c.id})
		c.create()
		c.start()
		c.state()
	}},
}

// parent of the container's process is its shim.
func (c *container) parent() int {
	c.p.Helper()
	shim, err := parent(c.pid())
	c.p.must(err)
	return shim
}

func (p *program) awaitEnd(shim int) {
	p.Helper()
	p.poll("the end of the shim", func() bool {
		process, err := harness.ProcessByID(shim)
		return err != nil || process.Ended() || !process.Shim()
	})
}
