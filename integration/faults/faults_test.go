package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

// fault is a row of the matrix.
type fault struct {
	name, about string
	// own: it touches the daemon, or a directory of its, so each cell has one for itself.
	own bool
	// holdsHost: in the phases where a handler could be held by itself, its host is.
	holdsHost bool
	// mayLose: the shim may end by it, which is then as if it had been killed.
	mayLose bool
	// prepare is called before the container is made; nil for nothing.
	prepare func(*cell)
	// inflict does it, and sets what takes it back.
	inflict func(*cell)
	// end of a phase; it gets the phase's own.
	end func(*phase, end) end
}

var faults = []*fault{
	{
		name: "containerd killed", about: "SIGKILL, and a new start", own: true,
		inflict: func(c *cell) { c.restart((*harness.Daemon).Kill) },
		end:     restarted,
	},
	{
		name: "containerd restarted", about: "SIGTERM, and a new start", own: true,
		inflict: func(c *cell) { c.restart((*harness.Daemon).Terminate) },
		end:     restarted,
	},
	{
		name: "shim killed", about: "SIGKILL",
		inflict: func(c *cell) {
			shims := c.shims()
			if len(shims) != 1 {
				c.Fatalf("shims %v, want one", shims)
			}
			c.must(unix.Kill(shims[0].PID, unix.SIGKILL))
		},
		end: func(_ *phase, e end) end {
			e.lost, e.text = true, "killed"
			return e
		},
	},
	{
		name: "host killed", about: "SIGKILL while it runs, before it has started the handler. One that has begun a handler early is no loss", holdsHost: true,
		inflict: func(c *cell) { c.onHost(unix.SIGKILL) },
		end:     hostKilled,
	},
	{
		name: "host missing", about: "its file is removed while the shim runs (missing from the beginning: TestMissingHost)",
		inflict: func(c *cell) { c.must(os.Remove(filepath.Join(c.dir, hostBinary))) },
		end:     func(_ *phase, e end) end { return e },
	},
	{
		name: "host hung", about: "SIGSTOP while it runs; it is never resumed. Handlers have 2 s, and a Create ends by the shim's own 30 s", holdsHost: true,
		prepare: func(c *cell) { c.timeout = max(c.timeout, 2) },
		inflict: func(c *cell) { c.onHost(unix.SIGSTOP) },
		end:     hostHung,
	},
	{
		name: "runtime fails", about: "every call of the OCI runtime fails, until one has",
		inflict: func(c *cell) {
			f := c.beside("fail")
			c.must(write(string(f), ""))
			c.heal = func() { _ = os.Remove(string(f)) }
		},
		end: runtimeFails,
	},
	{
		name: "runtime hangs", about: "the next call of the OCI runtime hangs, until the status service has answered meanwhile",
		inflict: func(c *cell) { c.hang() },
		end:     func(_ *phase, e end) end { return e },
	},
	{
		name: "disk full", about: "where the bundles and the runtime's state are, until a request has failed", own: true,
		prepare: func(c *cell) { c.smallDisks() },
		inflict: func(c *cell) { c.fillDisks() },
		end:     diskFull,
	},
	{
		name: "cgroup frozen", about: "from outside, until the shim has continued without the frozen processes. Handlers have 2 s",
		prepare: func(c *cell) { c.timeout = max(c.timeout, 2) },
		inflict: func(c *cell) { c.freeze() },
		end:     frozen,
	},
	{
		name: "process table full", mayLose: true,
		about: "the shim, and what it starts, may have 3 processes and threads more, until a request has failed. Go ends a program " +
			"that needs a thread and gets none, so the shim may end too, as the stock one may: then as for “shim killed”",
		inflict: func(c *cell) { c.fillProcesses() },
		end:     processesFull,
	},
	{
		name: "events unheard", about: "containerd is stopped (SIGSTOP); the client speaks to the shim itself until the exit", own: true,
		inflict: func(c *cell) { c.silence() },
		end:     func(_ *phase, e end) end { return e },
	},
	{
		name: "client gone", about: "its connection is closed, with its requests; another client continues",
		inflict: func(c *cell) { c.must(c.client.Close()) },
		end: func(p *phase, e end) end {
			e.unanswered = p.pending
			return e
		},
	},
}

// restart ends the daemon and starts it again. A runtime's start that is held ends in between where the process has exited:
// containerd gives a shim 5 s to delete that, and forgets a shim that has not, under the stock shim too (loadShim, shim_load.go).
func (c *cell) restart(stop func(*harness.Daemon) error) {
	c.Helper()
	c.must(stop(c.world.Daemon))
	if c.phase.name == "Starting, exited" {
		c.letGo()
		c.wantPhase("Exited")
	}
	c.must(c.world.Start(c.Context()))
}

// restarted: what has exited is taken away by a containerd that starts: it finds no process.
func restarted(p *phase, e end) end {
	switch p.name {
	case "Exited", "Starting, exited":
		e.lost, e.text = true, "taken away by containerd"
	}
	e.unanswered = p.pending
	return e
}

// onHost sends the signal to the host that is held, which then is held by nothing else; where no host is held it
// shows that none runs.
func (c *cell) onHost(signal syscall.Signal) {
	c.Helper()
	if c.phase.host == "make" || c.phase.host == "park" {
		var hosts []int
		c.poll("the handler host", func() bool { hosts = c.hosts(); return len(hosts) > 0 })
		if len(hosts) != 1 {
			c.Fatalf("handler hosts %v, want one", hosts)
		}
		c.signalHost(hosts[0], signal)
		return
	}
	if !c.beside("host").exists() {
		c.poll("a phase without a handler host", func() bool { return len(c.hosts()) == 0 }) // one that was begun early is being ended
		return
	}
	c.signalHost(c.host(), signal)
}

// signalHost ends or stops the host, and waits until the kernel has done it: on a busy machine that takes longer than what comes next.
func (c *cell) signalHost(pid int, signal syscall.Signal) {
	c.Helper()
	c.must(unix.Kill(pid, signal))
	if c.stuck != nil {
		return // the kernel cannot do it
	}
	c.poll("the host to be stopped, or to end", func() bool {
		p, err := harness.ProcessByID(pid)
		if signal == unix.SIGSTOP {
			return err == nil && p.State == "T"
		}
		return err != nil || p.Ended()
	})
}

func hostKilled(p *phase, e end) end {
	switch p.host {
	case "":
		e.nothing, e.text = true, "none runs"
	case "prepare":
		e.fails, e.text = []string{"Create"}, "Create fails"
	}
	switch p.name {
	case "PreStart":
		e = e.notStarted("cannot start")
	case "OnExit, being made", "OnExit":
		e.onExit = 0
	case "PostStart":
		e.start, e.text = "cannot start", "Start fails, stopped"
	case "PreStop":
		e.preStop, e.text = 0, "preStop fails, the signal is sent"
	}
	return e
}

func hostHung(p *phase, e end) end {
	switch p.host {
	case "":
		e.nothing, e.text = true, "none runs"
	case "prepare":
		e.fails, e.text = []string{"Create"}, "Create fails in time"
	}
	switch p.name {
	case "PreStart":
		e = e.notStarted("timed out")
	case "OnExit, being made", "OnExit":
		e.onExit = 0
	case "Created", "Starting", "PostStart":
		e.start, e.text = "timed out", "Start fails in time, stopped"
	case "PreStop":
		e.preStop, e.text = 0, "preStop times out, the signal is sent"
	}
	return e
}

// runtimeFails: where the runtime cannot send the signal that the shim owes, the shim does.
func runtimeFails(p *phase, e end) end {
	e.fails = []string{"Delete"}
	switch p.name {
	case "Creating":
		e.fails = []string{"Create"}
	case "Created", "Starting":
		e.fails = []string{"Start"}
	case "Starting, signal forwarded":
		e.fails = []string{"Kill", "Start"}
	case "Stopping":
		e.fails = []string{"Kill"}
	case "Deleted":
		e.fails = []string{neighbourKill}
	}
	switch p.name {
	case "PreStart": // an onExit is not to be lost with another try, so there is none
		e = e.notStarted("this runtime fails")
		e.onExit = 0
	case "PreStart, aborted", "Cancelled", "OnExit, waits for a handler", "OnExit, being made":
		e.onExit = 0
	case "Starting, stop waits": // the runtime's init gets the signal, which is no shell with a trap
		e.start, e.preStop, e.terms, e.status, e.unstarted = "this runtime fails", 0, 0, 2, true
	case "Starting, signal forwarded":
		e.start, e.preStop, e.terms, e.status = "", 1, 1, 7
	case "Starting, exited":
		e.start, e.unstarted = "OCI runtime start failed", true
	}
	return e
}

// nextCall of the runtime in a phase. The stop signal is none: the shim sends it itself.
func nextCall(p *phase) string {
	switch p.name {
	case "Creating", "OnExit, waits for a handler", "OnExit, being made":
		return "create"
	case "Created", "PreStart", "Starting", "Starting, stop waits", "Starting, signal forwarded":
		return "start"
	case "PreStart, aborted", "Cancelled", "Stopping", "Deleted":
		return "kill"
	default:
		return "delete"
	}
}

// hang makes the runtime hang until it has.
func (c *cell) hang() {
	c.Helper()
	f := c.beside("hang")
	c.must(write(string(f), ""))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = harness.Poll(ctx, limit, "the runtime to hang", func() (bool, error) { return c.beside("at-hang").exists(), nil })
		if _, err := c.told(); err != nil && ctx.Err() == nil {
			c.Errorf("the status service, while the runtime hangs: %v", err)
		}
		_ = os.Remove(string(f))
	}()
	c.heal = func() {
		if call, err := os.ReadFile(string(c.beside("at-hang"))); err != nil || strings.TrimSpace(string(call)) != nextCall(c.phase) {
			c.Errorf("the call that hung is %q (%v), want %s", call, err, nextCall(c.phase))
		}
		cancel()
		<-done
	}
}

// disks are the directories that get small.
func (c *cell) disks() []string {
	return []string{filepath.Join(c.world.Dir, "state", "io.containerd.runtime.v2.task"), c.world.RuncRoot}
}

func (c *cell) smallDisks() {
	c.Helper()
	for _, dir := range c.disks() {
		c.must(os.MkdirAll(dir, 0o711))
		c.must(unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=711,size=2m"))
		c.Cleanup(func() {
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				c.Error(err)
			}
		})
	}
}

func (c *cell) fillDisks() {
	c.Helper()
	var full []string
	for _, dir := range c.disks() {
		path := filepath.Join(dir, "full")
		f, err := os.Create(path)
		c.must(err)
		full = append(full, path)
		for chunk := make([]byte, 4096); err == nil; {
			_, err = f.Write(chunk)
		}
		c.must(f.Close())
	}
	c.heal = func() {
		for _, path := range full {
			_ = os.Remove(path)
		}
	}
}

func diskFull(p *phase, e end) end {
	switch p.name {
	case "Creating":
		e.fails = []string{"Create"}
	case "PreStart", "PreStart, aborted", "Cancelled", "OnExit, waits for a handler", "OnExit, being made": // it is made from files in the bundle
		e.onExit = 0
	}
	return e
}

// freeze the container's cgroup, or its parent's if it has none, and thaw it when the shim has continued as far as it can.
func (c *cell) freeze() {
	c.Helper()
	dir := c.parent
	if c.createReq.answered() && c.group == "" {
		dir += "/" + c.id
	}
	frozen, thaw, err := freezer(dir)
	c.must(err)
	c.heal = func() {
		if err := thaw(); err != nil {
			c.Error(err)
		}
	}
	if c.stuck == nil { // what is stuck in the kernel cannot be frozen before it is let go
		c.poll("the cgroup to be frozen", frozen)
	}
	if _, err := c.told(); err != nil {
		c.Errorf("the status service, while the cgroup is frozen: %v", err)
	}
	switch c.phase.name {
	case "Running":
		c.must(c.answer(c.askStop(c.api)))
		c.wantPhase("Stopping")
	case "PostStart", "PostStart, aborted", "PostStart, stop waits", "PreStop", "PreStop, aborted":
		c.wantPhase("Stopping")
	case "PreStart", "PreStart, aborted":
		c.wantPhase("Cancelled", "OnExit, waits for a handler", "OnExit", "Exited") // runc thaws what it kills
	case "OnExit, being made", "OnExit", "OnExit, aborted":
		c.wantPhase("Exited")
	case "Stopping":
		c.kill()
	}
	c.takeBack()
}

func frozen(p *phase, e end) end {
	switch p.name {
	case "PreStart":
		e = e.notStarted("timed out")
	case "OnExit, being made":
		e.onExit = 0
	case "PostStart":
		e.start, e.preStop = "timed out", 0
	case "Running":
		e.preStop = 0
	}
	return e
}

// spareProcesses is room for threads that the shim itself may need, without which Go ends a program. It is less than
// a runtime or a handler host needs.
const spareProcesses = 3

// fillProcesses moves the shim into a cgroup that has no room for another program. What the shim starts is in it too; the
// container is not, nor what runs already.
func (c *cell) fillProcesses() {
	c.Helper()
	shims := c.shims()
	if len(shims) != 1 {
		c.Fatalf("shims %v, want one", shims)
	}
	mount := "/sys/fs/cgroup/pids"
	if unified() {
		mount = "/sys/fs/cgroup"
		c.must(write(filepath.Join(mount, c.parent, "cgroup.subtree_control"), "+pids"))
	}
	home, err := pidsCgroup(shims[0].PID)
	c.must(err)
	dir := filepath.Join(mount, cgroupParent, "full-"+c.namespace)
	c.must(os.Mkdir(dir, 0o755))
	move := func(to string, pid int) error { return write(filepath.Join(to, "cgroup.procs"), strconv.Itoa(pid)) }
	c.must(move(dir, shims[0].PID))
	text, err := os.ReadFile(filepath.Join(dir, "pids.current"))
	c.must(err)
	now, err := strconv.Atoi(strings.TrimSpace(string(text)))
	c.must(err)
	c.must(write(filepath.Join(dir, "pids.max"), strconv.Itoa(now+spareProcesses)))
	c.heal = func() {
		_ = write(filepath.Join(dir, "pids.max"), "max")
		err := harness.Poll(context.Background(), limit, "the full cgroup to be left", func() (bool, error) {
			members, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for _, member := range strings.Fields(string(members)) {
				if pid, err := strconv.Atoi(member); err == nil {
					_ = move(filepath.Join(mount, home), pid) // it may have ended
				}
			}
			return os.Remove(dir) == nil, nil
		})
		if err != nil {
			c.Error(err)
		}
	}
}

// pidsCgroup is the path of the process's cgroup in the hierarchy that counts processes.
func pidsCgroup(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) == 3 && (part[1] == "pids" || unified() && part[0] == "0") {
			return part[2], nil
		}
	}
	return "", fmt.Errorf("process %d is in no cgroup that counts processes", pid)
}

// processesFull: running processes continue; nothing can be started, neither a handler nor the runtime. The signal that the shim owes
// comes all the same.
func processesFull(p *phase, e end) end {
	e.fails = []string{"Delete"}
	switch p.name {
	case "Creating", "Created": // what is begun early is no loss
		e.fails = []string{"Start"}
	case "PreStart":
		e = e.notStarted("OCI runtime start failed")
		e.onExit = 0
	case "PreStart, aborted", "Cancelled", "OnExit, waits for a handler":
		e.onExit = 0
	case "Starting", "Starting, stop waits", "PostStart", "Running": // postStart has begun early
		e.preStop = 0
	case "Starting, signal forwarded", "Stopping":
		e.fails = []string{"Kill"}
	case "Deleted":
		e.fails = []string{neighbourKill}
	}
	return e
}

// unified says whether the machine has cgroup v2 alone.
func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// silence stops containerd. What the client does is done at the shim's socket then.
func (c *cell) silence() {
	c.Helper()
	shim, err := c.connect()
	c.must(err)
	pid := c.world.Pid()
	c.must(unix.Kill(pid, unix.SIGSTOP))
	c.api = viaSocket{task.NewTTRPCTaskClient(shim), c.namespace, c.id}
	c.heal = func() {
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			c.Error(err)
		}
	}
}

// freezer freezes a cgroup of either version.
func freezer(cgroup string) (frozen func() bool, thaw func() error, err error) {
	dir, name, on, off := filepath.Join("/sys/fs/cgroup/freezer", cgroup), "freezer.state", "FROZEN", "THAWED"
	frozen = func() bool {
		data, _ := os.ReadFile(filepath.Join(dir, name))
		return strings.TrimSpace(string(data)) == on
	}
	if unified() {
		dir, name, on, off = filepath.Join("/sys/fs/cgroup", cgroup), "cgroup.freeze", "1", "0"
		frozen = func() bool {
			data, _ := os.ReadFile(filepath.Join(dir, "cgroup.events"))
			return strings.Contains(string(data), "frozen 1")
		}
	}
	thaw = func() error {
		err := write(filepath.Join(dir, name), off)
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	if err := write(filepath.Join(dir, name), on); err != nil {
		return nil, nil, fmt.Errorf("freeze: %w", err)
	}
	return frozen, thaw, nil
}
