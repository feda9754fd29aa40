package parity

import (
	"slices"
	"syscall"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// edited has the last word on the spec.
func edited(edit func(*specs.Spec)) func(*harness.ContainerConfig) {
	return func(config *harness.ContainerConfig) {
		before := config.Edit
		config.Edit = func(spec *specs.Spec) {
			if before != nil {
				before(spec)
			}
			edit(spec)
		}
	}
}

var lifeScenarios = []scenario{
	{name: "run to the end", about: "Create, Start, Wait, State and Delete of a process that ends by itself", program: func(p *program) {
		c := p.container("a", []string{"/bin/sh", "-c", ": > /ready; while [ ! -e /go ]; do sleep 0.02; done"})
		c.create()
		c.state()
		c.start()
		c.ready()
		c.state()
		c.touch("go")
		c.wait()
		c.state()
		c.delete()
	}},
	{name: "exit statuses", about: "the statuses 0, 1, 7, 128 and 255 in Wait, State, Delete and TaskExit", program: func(p *program) {
		for _, status := range []string{"0", "1", "7", "128", "255"} {
			c := p.run("exit"+status, exits(status))
			c.wait()
			c.state()
			c.delete()
		}
	}},
	{name: "early exit", about: "a process that ends at once: Start is answered, TaskStart comes before TaskExit", program: func(p *program) {
		for _, name := range []string{"a", "b", "c"} {
			c := p.run(name, []string{"/bin/true"})
			c.wait()
			c.delete()
		}
	}},
	{name: "start twice", about: "Start of a running, an exited and a deleted container", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.start()
		c.state()
		c.kill(syscall.SIGKILL)
		c.wait()
		c.start()
		c.state()
		c.delete()
		c.start()
	}},
	{name: "create twice", about: "Create of an id that is taken: created, running, exited; and again after Delete", program: func(p *program) {
		c := p.container("a", sleeper)
		c.create()
		c.create()
		c.start()
		c.ready()
		c.create()
		c.kill(syscall.SIGKILL)
		c.wait()
		c.create()
		c.delete()
		if p.way == byDaemon { // its shim has to end first
			c.create()
			c.start()
			c.state()
		}
	}},
	{name: "create twice at the shim", about: "Create of a running container, past containerd: the shim itself, or its OCI runtime, refuses", ways: []way{bySocket}, program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		request := &taskapi.CreateTaskRequest{ID: c.id, Bundle: c.bundle()}
		c.do(c.label("Create", ""), request)
		c.state()
		c.kill(syscall.SIGTERM)
	}},
	{name: "delete created", about: "Delete of a container that was never started", program: func(p *program) {
		c := p.container("a", sleeper)
		c.create()
		c.delete()
		c.state()
		c.delete()
	}},
	{name: "delete running", about: "Delete of a running container, which continues", program: func(p *program) {
		c := p.run("a", obedient)
		c.ready()
		c.delete()
		c.state()
		c.kill(syscall.SIGTERM)
		c.wait()
		c.delete()
		p.note("signals: %q", c.read("signals"))
	}},
	{name: "delete twice", about: "the second Delete, and every other request after the first", program: func(p *program) {
		c := p.run("a", exits("3"))
		c.wait()
		c.delete()
		c.delete()
		c.everything()
	}},
	{name: "unknown container", about: "every request for a container that is not there", program: func(p *program) {
		c := p.container("a", sleeper)
		if p.way == bySocket { // a process has to be there to ask
			other := p.run("b", sleeper)
			c.api = other.api
		}
		c.everything()
	}},
	{name: "unknown process", about: "every request for an exec that is not there", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.start("nobody")
		c.state("nobody")
		c.kill(syscall.SIGKILL, "nobody")
		c.resize(10, 10, "nobody")
		c.closeIO("nobody")
		c.wait("nobody")
		c.delete("nobody")
		c.state()
	}},
	{name: "several clients wait", about: "three requests to Wait at once, before and after the exit: the same answer", program: func(p *program) {
		c := p.run("a", exits("$(while [ ! -e /go ]; do sleep 0.02; done; echo 5)"))
		wait := &taskapi.WaitRequest{ID: c.id}
		c.together(3, "Wait", wait, func() {
			c.state() // answered while the others wait
			c.touch("go")
		})
		c.awaitExit()
		c.together(3, "Wait", wait, func() {})
		c.delete()
		c.wait()
	}},
	{name: "wait from the creation on", about: "Wait of a container that is not started yet", program: func(p *program) {
		c := p.container("a", exits("4"))
		c.create()
		c.together(2, "Wait", &taskapi.WaitRequest{ID: c.id}, func() { c.start() })
		c.awaitExit()
		c.delete()
	}},
	{name: "connect and shutdown", about: "Connect of a created, running, exited and unknown container; Shutdown with and without containers", ways: []way{bySocket}, program: func(p *program) {
		c := p.container("a", sleeper)
		c.create()
		c.connect(c.id)
		c.start()
		c.ready()
		c.connect(c.id)
		c.connect("nobody")
		c.shutdown()
		c.state() // it is still there
		c.kill(syscall.SIGKILL)
		c.wait()
		c.connect(c.id)
		c.shutdown()
		c.delete()
		c.await("/tasks/delete")
		c.connect(c.id)
		_, _ = c.api.do(p.Context(), &taskapi.ShutdownRequest{ID: c.id}) // its answer may go with the shim
		p.awaitEnd(c.shim)
		p.poll("containerd's own events", func() bool { // it has seen no deletion
			return len(slices.DeleteFunc(c.events(), func(event harness.Event) bool { return event.Topic != "/tasks/delete" })) == 2
		})
		p.poll("the end of the task", func() bool {
			_, err := daemonAPI{client: p.client}.do(p.Context(), &taskapi.StateRequest{ID: c.id})
			return err != nil
		})
		c.created = false
	}},
}

// everything is one of each request, of a container for which none of them can be answered otherwise.
func (c *container) everything() {
	c.p.Helper()
	c.start()
	c.state()
	c.kill(syscall.SIGTERM)
	c.killAll(syscall.SIGKILL)
	c.exec("e", command("true"))
	c.resize(80, 25)
	c.closeIO()
	c.pids()
	if c.p.way == bySocket { // containerd's metrics of a task that is not there are an empty list, after a look at all
		c.stats()
	}
	c.pause()
	c.resume()
	c.update(&specs.LinuxResources{})
	c.checkpoint(nil)
	c.wait()
	c.delete()
}

func (c *container) connect(id string) {
	c.do("Connect "+id, &taskapi.ConnectRequest{ID: id})
}

func (c *container) shutdown() {
	c.do(c.label("Shutdown", ""), &taskapi.ShutdownRequest{ID: c.id})
}
