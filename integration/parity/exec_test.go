package parity

import (
	"syscall"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// in is an exec that says in a file that it runs.
func in(script string) *specs.Process { return command("/bin/sh", "-c", script) }

var execScenarios = []scenario{
	{name: "exec", about: "Exec, State, Start, Wait, Delete of further processes, with their statuses", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		for _, status := range []string{"0", "3", "255"} {
			id := "exit" + status
			c.exec(id, command(exits(status)...))
			c.state(id)
			c.start(id)
			c.wait(id)
			c.state(id)
			c.delete(id)
			c.state(id)
			c.delete(id)
		}
		c.state()
	}},
	{name: "exec with streams", about: "FIFOs and CloseIO of an exec", program: func(p *program) {
		in, out, errs := p.fifo("in"), p.fifo("out"), p.fifo("err")
		stdout, stderr, stdin := p.reader(out), p.reader(errs), p.writer(in)
		c := p.run("a", sleeper)
		c.exec("e", command("/bin/sh", "-c", "echo to stderr >&2; "+answers[2]), streams{in: in, out: out, err: errs})
		c.state("e")
		c.start("e")
		_, err := stdin.Write([]byte("one\n"))
		p.must(err)
		p.must(stdin.Close())
		c.closeIO("e")
		c.wait("e")
		c.delete("e")
		p.note("stdout %q, stderr %q", stdout(), stderr())
	}},
	{name: "exec with a terminal", about: "its size by ResizePty, its input, its output", program: func(p *program) {
		in, out := p.fifo("in"), p.fifo("out")
		stdout, stdin := p.reader(out), p.writer(in)
		c := p.run("a", sleeper)
		process := command("/bin/sh", "-c", ": > /tty; read line; stty size; echo \"got $line\"; exit 6")
		process.Terminal = true
		c.exec("e", process, streams{in: in, out: out, terminal: true})
		c.resize(80, 25, "e")
		c.start("e")
		c.ready("tty")
		c.resize(91, 31, "e")
		c.resize(80, 25)
		_, err := stdin.Write([]byte("a line\n"))
		p.must(err)
		c.wait("e")
		c.resize(80, 25, "e")
		c.delete("e")
		p.note("stdout %q", stdout())
	}},
	{name: "exec that cannot start", about: "a program, a directory or a user that is not there", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		cwd := command("/bin/true")
		cwd.Cwd = "/none"
		directory := command("/bin")
		for _, e := range []struct {
			id      string
			process *specs.Process
		}{{"missing", command("/none")}, {"path", command("none")}, {"cwd", cwd}, {"directory", directory}, {"empty", &specs.Process{Cwd: "/"}}} {
			c.exec(e.id, e.process)
			if !c.start(e.id) {
				c.state(e.id)
				c.kill(syscall.SIGKILL, e.id)
				c.delete(e.id)
			} else {
				c.wait(e.id)
				c.delete(e.id)
			}
		}
		c.state()
	}},
	{name: "exec without sense", about: "an id that is taken, a spec of another type, none, and broken JSON", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.exec("e", command("sleep", "1000"))
		c.exec("e", command("true"))
		c.start("e")
		c.exec("e", command("true"))
		c.start("e")
		c.exec(c.id, command("true"))
		for id, spec := range map[string]*anypb.Any{"broken": {TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: []byte("{")}} {
			c.do(c.label("Exec", id), &taskapi.ExecProcessRequest{ID: c.id, ExecID: id, Spec: spec})
			c.start(id)
			c.delete(id)
		}
		c.kill(syscall.SIGKILL, "e")
		c.wait("e")
		c.delete("e")
	}},
	{name: "exec without a spec", about: "a request without one; the container then", ways: []way{bySocket}, program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.do(c.label("Exec", "none"), &taskapi.ExecProcessRequest{ID: c.id, ExecID: "none"})
		c.state()
	}},
	{name: "exec in a created container", about: "before Start of the container", program: func(p *program) {
		c := p.container("a", sleeper)
		c.create()
		c.exec("e", command(exits("5")...))
		if c.start("e") {
			c.wait("e")
		}
		c.state("e")
		c.delete("e")
		c.start()
		c.ready()
		c.state()
	}},
	{name: "exec in an exited container", about: "added before the exit, and after it", program: func(p *program) {
		c := p.run("a", obedient)
		c.ready()
		c.exec("before", command("true"))
		c.kill(syscall.SIGTERM)
		c.wait()
		c.start("before")
		c.state("before")
		c.delete("before")
		c.exec("after", command("true"))
		c.start("after")
		c.delete("after")
		c.delete()
	}},
	{name: "exec in a paused container", about: "refused, and possible again after Resume", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.exec("before", command(exits("3")...))
		c.pause()
		c.frozen()
		c.exec("e", command("true"))
		c.start("e")
		c.start("before")
		c.state("before")
		c.resume()
		c.exec("e", command(exits("4")...))
		if c.start("e") {
			c.wait("e")
		}
		c.delete("e")
	}},
	{name: "kill an exec", about: "Kill by exec id: running, ended, not started; with all; the container continues", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.exec("e", in("trap 'exit 9' TERM; : > /e; sleep 1000 & wait"))
		c.kill(syscall.SIGTERM, "e")
		c.start("e")
		c.ready("e")
		c.kill(0, "e")
		c.kill(syscall.SIGTERM, "e")
		c.wait("e")
		c.kill(syscall.SIGTERM, "e")
		c.delete("e")
		c.kill(syscall.SIGTERM, "e")
		c.exec("f", in(": > /f; exec sleep 1000"))
		c.start("f")
		c.ready("f")
		c.do(c.label("Kill", "f", "all"), &taskapi.KillRequest{ID: c.id, ExecID: "f", Signal: uint32(syscall.SIGKILL), All: true})
		c.wait("f")
		c.state()
	}},
	{name: "delete an exec", about: "Delete of one that runs, and of one that was not started", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.exec("e", in(": > /e; exec sleep 1000"))
		c.exec("created", command("true"))
		c.delete("created")
		c.start("e")
		c.ready("e")
		c.delete("e")
		c.state("e")
		c.kill(syscall.SIGKILL, "e")
		c.wait("e")
		c.delete("e")
	}},
	{name: "several clients wait for an exec", about: "the same answer for all, before and after the exit", program: func(p *program) {
		c := p.run("a", sleeper)
		c.exec("e", in("while [ ! -e /go ]; do sleep 0.02; done; exit 8"))
		c.start("e")
		c.together(3, "Wait", &taskapi.WaitRequest{ID: c.id, ExecID: "e"}, func() { c.touch("go") })
		c.awaitExit("e")
		c.together(2, "Wait", &taskapi.WaitRequest{ID: c.id, ExecID: "e"}, func() {})
	}},
	{name: "the container ends before its exec", about: "the order of both TaskExit, in its own pid namespace", program: func(p *program) {
		c := p.run("a", obedient)
		c.ready()
		c.exec("e", in(": > /e; exec sleep 1000"))
		c.start("e")
		c.ready("e")
		c.kill(syscall.SIGTERM)
		c.wait()
		c.wait("e")
		c.delete()
		c.delete("e")
	}},
	{name: "the container is deleted with its exec", about: "Delete of the container when an exec has ended and was not deleted", program: func(p *program) {
		c := p.run("a", obedient)
		c.ready()
		c.exec("e", command("true"))
		c.start("e")
		c.wait("e")
		c.kill(syscall.SIGTERM)
		c.wait()
		c.delete()
		c.state("e")
	}},
}
