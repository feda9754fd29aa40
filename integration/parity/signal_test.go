package parity

import (
	"syscall"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// children starts two more processes.
var children = []string{"/bin/sh", "-c", "sleep 1000 & sleep 1000 & : > /ready; exec sleep 1000"}

func hostPID(config *harness.ContainerConfig) { config.HostPID = true }

var signalScenarios = []scenario{
	{name: "signals", about: "Kill with SIGHUP, SIGUSR1 and then SIGTERM: each arrives once; the status is the process's own", program: func(p *program) {
		c := p.run("a", obedient)
		c.ready()
		for _, signal := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1} {
			before := c.read("signals")
			c.kill(signal)
			p.poll("the signal", func() bool { return c.read("signals") != before })
		}
		c.state()
		c.kill(syscall.SIGTERM)
		c.wait()
		c.state()
		c.delete()
		p.note("signals: %q", c.read("signals"))
	}},
	{name: "ended by a signal", about: "the status of a process that SIGTERM, SIGINT, SIGHUP, SIGQUIT or SIGKILL ends", program: func(p *program) {
		for name, signal := range ordered("term", syscall.SIGTERM, "int", syscall.SIGINT, "hup", syscall.SIGHUP, "quit", syscall.SIGQUIT, "kill", syscall.SIGKILL) {
			// Not pid 1, for which the kernel's defaults do not count.
			c := p.run(name, []string{"/bin/sleep", "1000"}, hostPID)
			c.executes("sleep")
			c.kill(signal)
			c.wait()
			c.delete()
		}
	}},
	{name: "kill created", about: "SIGTERM and SIGKILL before Start, and the leftovers of the container then", program: func(p *program) {
		for name, signal := range ordered("term", syscall.SIGTERM, "kill", syscall.SIGKILL) {
			c := p.container(name, sleeper)
			c.create()
			c.kill(signal)
			if p.world.target.binary != "runc" && signal != syscall.SIGKILL { // crun's init takes no signal: it has no handlers, as pid 1
				c.state()
				c.kill(syscall.SIGKILL)
			}
			c.wait()
			c.state()
			c.start()
			c.delete()
		}
	}},
	{name: "kill after the exit", about: "SIGTERM and SIGKILL, with and without all, when the process has ended", program: func(p *program) {
		c := p.run("a", exits("0"))
		c.wait()
		c.kill(syscall.SIGTERM)
		c.kill(syscall.SIGKILL)
		c.killAll(syscall.SIGTERM)
		c.killAll(syscall.SIGKILL)
		c.state()
		c.delete()
		c.kill(syscall.SIGKILL)
	}},
	{name: "kill all", about: "Kill with all, in its own pid namespace", program: func(p *program) {
		c := p.run("a", children)
		c.ready()
		c.pids()
		c.killAll(syscall.SIGKILL)
		c.wait()
		c.delete()
	}},
	{name: "kill all in the host's pid namespace", about: "the same where init's end ends no other process", program: func(p *program) {
		c := p.run("a", children, hostPID)
		c.ready()
		c.pids()
		c.killAll(syscall.SIGTERM)
		c.wait()
		c.state()
		c.delete()
	}},
	{name: "wrong signals", about: "the signals 0, 65 and 4000000000", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.kill(0)
		c.kill(65)
		c.kill(4000000000)
		c.state()
	}},
	{name: "kill twice", about: "SIGTERM again and again to a process that ignores it, then SIGKILL", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.kill(syscall.SIGTERM)
		c.kill(syscall.SIGTERM)
		c.state()
		c.kill(syscall.SIGKILL)
		c.wait()
		c.delete()
	}},
}

// ordered ranges over pairs of a name and a value, in their order.
func ordered(pairs ...any) func(func(string, syscall.Signal) bool) {
	return func(yield func(string, syscall.Signal) bool) {
		for i := 0; i < len(pairs); i += 2 {
			if !yield(pairs[i].(string), pairs[i+1].(syscall.Signal)) {
				return
			}
		}
	}
}
