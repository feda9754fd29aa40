package parity

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

var (
	speaks   = []string{"/bin/sh", "-c", "echo to stdout; echo to stderr >&2; exit 3"}
	answers  = []string{"/bin/sh", "-c", "while read line; do echo \"got $line\"; done; echo end of input; exit 4"}
	terminal = func(config *harness.ContainerConfig) { config.Terminal = true }
)

var streamScenarios = []scenario{
	{name: "no streams", about: "empty paths: the output goes nowhere", program: func(p *program) {
		c := p.container("a", speaks)
		c.create()
		c.state()
		c.start()
		c.wait()
		c.delete()
	}},
	{name: "FIFOs", about: "stdin, stdout and stderr through FIFOs; CloseIO ends the input", program: func(p *program) {
		in, out, errs := p.fifo("in"), p.fifo("out"), p.fifo("err")
		stdout, stderr, stdin := p.reader(out), p.reader(errs), p.writer(in)
		c := p.container("a", append(answers[:2:2], "echo to stderr >&2; "+answers[2]))
		c.create(streams{in: in, out: out, err: errs})
		c.state()
		c.start()
		_, err := stdin.Write([]byte("one\ntwo\n"))
		p.must(err)
		p.must(stdin.Close())
		c.closeIO()
		c.wait()
		c.closeIO()
		c.delete()
		p.note("stdout %q, stderr %q", stdout(), stderr())
	}},
	{name: "much output", about: "5 MB through a FIFO, to the last byte, then the exit", program: func(p *program) {
		out := p.fifo("out")
		stdout := p.reader(out)
		c := p.container("a", []string{"/bin/sh", "-c", "head -c 5000000 /dev/zero | tr '\\0' x; echo last"})
		c.create(streams{out: out})
		c.start()
		c.wait()
		c.delete()
		text := stdout()
		p.note("%d bytes, the end %q", len(text), text[max(0, len(text)-6):])
	}},
	{name: "terminal", about: "a terminal: its size, ResizePty, echo, CloseIO, and the hang-up", program: func(p *program) {
		in, out := p.fifo("in"), p.fifo("out")
		stdout, stdin := p.reader(out), p.writer(in)
		c := p.container("a", []string{"/bin/sh", "-c", "stty size > /size; touch /ready; read line; stty size > /resized; echo \"got $line\"; exit 5"},
			terminal, edited(func(spec *specs.Spec) { spec.Process.ConsoleSize = &specs.Box{Width: 90, Height: 33} }))
		c.create(streams{in: in, out: out, terminal: true})
		c.state()
		c.start()
		c.ready()
		c.resize(101, 44)
		_, err := stdin.Write([]byte("a line\n"))
		p.must(err)
		c.wait()
		c.closeIO()
		c.resize(10, 10)
		c.delete()
		p.note("stdout %q, size %q, then %q", stdout(), c.read("size"), c.read("resized"))
	}},
	{name: "resize without a terminal", about: "ResizePty of what has none", program: func(p *program) {
		c := p.run("a", sleeper)
		c.ready()
		c.resize(80, 25)
		c.state()
	}},
	// Of one stream only: a process that writes to both at once may lose lines, under the stock shim too.
	{name: "files", about: "file:// in a directory that is not there yet, and in a file that has a line already", program: func(p *program) {
		file := filepath.Join(p.dir, "new", "out")
		for _, name := range []string{"a", "b"} {
			c := p.container(name, []string{"/bin/sh", "-c", "echo a line"})
			c.create(streams{out: "file://" + file, err: "file://" + file})
			c.state()
			c.start()
			c.wait()
			c.delete()
		}
		p.note("%q", text(file))
	}},
	{name: "binary logger", about: "binary:// starts a logger, which gets both streams to their end", program: func(p *program) {
		file := filepath.Join(p.dir, "logged")
		uri := "binary://" + filepath.Join(binDir(p), "testlogger") + "?FILE=" + file
		c := p.container("a", speaks)
		c.create(streams{out: uri, err: uri})
		c.state()
		c.start()
		c.wait()
		c.delete()
		p.poll("the logger", func() bool { return strings.Count(text(file), "\n") == 2 })
		p.note("both lines are logged: %t, %t", strings.Contains(text(file), "stdout: to stdout"), strings.Contains(text(file), "stderr: to stderr"))
	}},
	{name: "binary logger of a terminal", about: "the same for a terminal", program: func(p *program) {
		file := filepath.Join(p.dir, "logged")
		c := p.container("a", []string{"/bin/sh", "-c", "echo one line"}, terminal)
		c.create(streams{out: "binary://" + filepath.Join(binDir(p), "testlogger") + "?FILE=" + file, terminal: true})
		c.start()
		c.wait()
		c.delete()
		p.poll("the logger", func() bool { return strings.Contains(text(file), "\n") })
		p.note("logged: %q", text(file))
	}},
	{name: "wrong streams", about: "a FIFO that is missing, an unknown scheme, a logger that is missing or fails, no URI at all", program: func(p *program) {
		for _, stream := range []struct{ name, uri string }{
			{"directory", filepath.Join(p.dir, "none", "fifo")},
			{"scheme", "foo:///bar"},
			{"logger", "binary:///none/logger"},
			{"fails", "binary:///bin/false"},
			{"uri", "binary://%zz"},
			{"relative", "relative/path"},
		} {
			c := p.container(stream.name, exits("0"))
			if c.create(streams{out: stream.uri, err: stream.uri}) {
				c.start()
				c.wait()
				c.delete()
			}
		}
	}},
	{name: "terminal with wrong streams", about: "a terminal whose FIFO is missing, one in the spec that the request does not have, and, with runc, the other way round", program: func(p *program) {
		c := p.container("fifo", exits("0"), terminal)
		c.create(streams{out: filepath.Join(p.dir, "none", "fifo"), terminal: true})
		d := p.container("spec", exits("0"), terminal)
		if d.create() {
			d.start()
			d.wait()
		}
		if p.world.target.binary != "runc" { // crun waits forever for a console that is never sent
			return
		}
		e := p.container("request", exits("0"))
		out := p.fifo("out")
		p.reader(out)
		if e.create(streams{out: out, terminal: true}) {
			e.start()
			e.wait()
		}
	}},
	{name: "output after the exit", about: "a child in the host's pid namespace keeps the FIFO open: TaskExit does not wait for it", program: func(p *program) {
		out := p.fifo("out")
		stdout := p.reader(out)
		c := p.container("a", []string{"/bin/sh", "-c", "(while [ ! -e /go ]; do sleep 0.02; done; echo late) & echo early; exit 6"}, hostPID,
			edited(func(spec *specs.Spec) { spec.Annotations["keeps"] = "its streams" }))
		c.create(streams{out: out})
		c.start()
		c.wait()
		c.state()
		c.kill(syscall.SIGKILL)
		c.delete()
		p.note("stdout %q", stdout())
	}},
}

func text(path string) string {
	data, _ := os.ReadFile(path) // there is none, if it was not written
	return string(data)
}
