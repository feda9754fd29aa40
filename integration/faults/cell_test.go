package faults

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
	lifecyclev1 "github.com/lifecycle-shim/lifecycle-shim/proto/lifecycle/v1"
)

// cell is one container, in a phase and with a fault.
type cell struct {
	*testing.T
	phase  *phase
	world  *world
	client *harness.Client // whose requests are waited for
	second *harness.Client // does the rest
	api    api             // of what is asked for after the fault
	record *harness.Container
	// neighbour shares the shim, where the phase is one without the container: then there is a group.
	neighbour *harness.Container
	group     string

	id, runtime string
	namespace   string
	dir         string // steers the OCI runtime and the handler host
	bundle      string
	parent      string // of the container's cgroup
	stuck       *harness.StuckFS

	// How the container is made.
	hostPID    bool
	handlers   []string // those that it has
	timeout    int      // of its handlers in seconds, 0 for none; an onExit has it only where the phase holds that
	ending     string   // the handler whose time is up in the phase
	holdsHost  bool     // a handler is held while its host runs, instead of itself
	sticksHost bool     // the same for one that cannot be killed
	held       []file   // what is to be let go

	mu       sync.Mutex
	requests []*request
	shim     *ttrpc.Client
	exit     chan error // how the look at the State at TaskExit went; nil before there is a task

	// heal takes the fault back. It is nil if there is no fault, or if heal has been called.
	heal func()
	// What has been asked for.
	createReq, startReq, deleteReq *request
	stops                          []*request // TERM
	killReq                        *request   // SIGKILL, if it has not been waited for
	killed                         bool       // SIGKILL was accepted
	// forgiving: what goes wrong is noted as a problem.
	forgiving bool
	problems  []string
	// remade: the shim has ended while it made the container, and another has made it since.
	remade bool
	// failed are the requests that the fault has made fail, in their order.
	failed []string
}

// file is one whose being there holds something.
type file string

// request is one that a client has made. It is answered when done is closed.
type request struct {
	what   string
	done   chan struct{}
	err    error
	status uint32
}

func newCell(t *testing.T, w *world, p *phase, runtime string) *cell {
	t.Helper()
	return newCellNamed(t, w, p, runtime, namespaceOf(t))
}

// newCellNamed is for a test with more than one cell.
func newCellNamed(t *testing.T, w *world, p *phase, runtime, namespace string) *cell {
	t.Helper()
	c := &cell{T: t, phase: p, world: w, runtime: runtime, id: "c", namespace: namespace, handlers: p.handlers}
	if c.handlers == nil {
		c.handlers = []string{postStart, preStop}
	}
	c.dir = filepath.Join(base, "d", c.namespace)
	c.parent = cgroupParent + "/" + c.namespace
	c.bundle = filepath.Join(w.Dir, "state", "io.containerd.runtime.v2.task", c.namespace, c.id)
	c.must(os.MkdirAll(c.dir, 0o755))
	c.must(os.Link(filepath.Join(base, shimBinary), filepath.Join(c.dir, shimBinary)))
	c.script(hostBinary, hostScript)
	c.script("runtime", runtimeScript)
	var err error
	c.client, err = w.Client(c.namespace)
	c.must(err)
	c.second, err = w.Client(c.namespace)
	c.must(err)
	c.must(harness.MakeCgroupParent(c.parent))
	c.Cleanup(c.close)
	return c
}

// hostScript stands for the handler host, which it becomes when nothing holds it. It gets no environment.
const hostScript = `#!/bin/sh
if [ -e DIR/hold-host-$1 ] || [ -e DIR/stick-host-$1 ]; then
	echo $$ > DIR/host.new && /bin/mv DIR/host.new DIR/host
fi
if [ -e DIR/stick-host-$1 ]; then /bin/rm DIR/stick-host-$1; exec 9< DIR/stuck/x; fi
while [ -e DIR/hold-host-$1 ]; do /bin/sleep 0.05; done
exec BASE/lifecycle-hookexec "$@"
`

// runtimeScript stands for the OCI runtime.
const runtimeScript = `#!/bin/sh
verb=
for word; do
	case $word in create | start | kill | delete | pause | resume | exec | ps | update | checkpoint | state) verb=$word; break ;; esac
done
wait_for() { echo $verb > DIR/at-$1; while [ -e DIR/$1 ]; do /bin/sleep 0.02; done; }
[ -e DIR/hold-$verb ] && wait_for hold-$verb
[ -e DIR/hang ] && wait_for hang
if [ -e DIR/fail ]; then echo "this runtime fails" >&2; exit 1; fi
[ -e DIR/hold-after-$verb ] || exec RUNTIME "$@"
RUNTIME "$@"
status=$?
wait_for hold-after-$verb
[ -e DIR/fail ] && exit 1
exit $status
`

func (c *cell) script(name, text string) {
	c.Helper()
	runtime := c.runtime
	if runtime == "runc" {
		runtime = filepath.Join(base, "bin/runc")
	}
	text = strings.NewReplacer("DIR", c.dir, "BASE", base, "RUNTIME", runtime).Replace(text)
	c.must(os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o755))
}

// entrypoint notes what happens to it. TERM ends it with 7, unless it is deaf, USR1 with 3.
const entrypoint = `leave() { echo "exit $1" >> /journal; exit $1; }
trap 'echo TERM >> /journal; [ -e /deaf ] || leave 7' TERM
trap 'leave 3' USR1
echo entrypoint >> /journal
touch /ready
sleep 1000 & while :; do wait; done`

// The handlers, by their names in a block.
const preStart, postStart, preStop, onExit = "preStart", "postStart", "preStop", "onExit"

// handler waits for what holds it. One beside the entrypoint waits for that first, so that no signal comes before its traps.
// An onExit notes its result, and leaves a process behind.
func (c *cell) handler(kind string) string {
	before, after := "", ""
	switch kind {
	case postStart, preStop:
		before = "while [ ! -e /ready ]; do sleep 0.02; done; "
	case onExit:
		after = `; echo "told $LIFECYCLE_RESULT" >> /journal; sleep 1000 &`
	}
	script := before + fmt.Sprintf(`echo %[1]s >> /journal; [ -e /stick-%[1]s ] && exec cat /stuck/x; `+
		`while [ -e /hold-%[1]s ]; do sleep 0.02; done; echo "end of %[1]s" >> /journal`, kind) + after
	limits := ""
	if seconds := c.timeoutOf(kind); seconds > 0 {
		limits = fmt.Sprintf("timeoutSeconds: %d, ", seconds)
	}
	return fmt.Sprintf("%s: {%sexec: {command: [/bin/sh, -c, %q]}}", kind, limits, script)
}

// timeoutOf a handler in seconds, 0 for none.
func (c *cell) timeoutOf(kind string) int {
	switch {
	case kind == c.ending && kind == onExit:
		return 3 // it is made by the runtime first
	case kind == c.ending:
		return 1
	case kind == onExit && c.phase.name != "OnExit" && c.phase.name != "OnExit, being made":
		return 0
	}
	return c.timeout
}

// has says whether the container has that handler.
func (c *cell) has(kind string) bool { return slices.Contains(c.handlers, kind) }

// blockOf the container's annotation.
func (c *cell) blockOf() string {
	var fields []string
	for _, kind := range c.handlers {
		fields = append(fields, c.handler(kind))
	}
	return "{" + strings.Join(fields, ", ") + ", terminationGracePeriodSeconds: 60}"
}

// make makes the container's record, after its neighbour.
func (c *cell) make() {
	c.Helper()
	if c.group != "" {
		c.makeNeighbour()
	}
	config := harness.ContainerConfig{
		ID: c.id, Args: []string{"/bin/sh", "-c", entrypoint}, Runtime: filepath.Join(c.dir, shimBinary),
		Options: &runtimeoptions.Options{ConfigBody: []byte(fmt.Sprintf(
			"Root = %q\nBinaryName = %q\n", c.world.RuncRoot, filepath.Join(c.dir, "runtime")))},
		Annotations:  map[string]string{"lifecycle-shim.io/lifecycle": c.blockOf()},
		CgroupParent: c.parent, HostPID: c.hostPID,
	}
	if c.group != "" {
		config.Annotations[groupKey] = c.group
	}
	if c.stuck != nil {
		config.Edit = func(spec *specs.Spec) {
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/stuck", Type: "bind", Source: filepath.Join(c.dir, "stuck"), Options: []string{"bind"}})
		}
	}
	var err error
	c.record, err = c.second.NewContainer(c.Context(), config)
	c.must(err)
	c.api = viaDaemon{c.second, c.id}
}

// groupKey makes containers share a shim.
const groupKey = "io.containerd.runc.v2.group"

// makeNeighbour runs another container under the shim.
func (c *cell) makeNeighbour() {
	c.Helper()
	var err error
	c.neighbour, err = c.second.NewContainer(c.Context(), harness.ContainerConfig{
		ID: "neighbour", Args: []string{"/bin/sh", "-c", "trap 'exit 5' TERM; touch /ready; sleep 1000 & while :; do wait; done"},
		Runtime: filepath.Join(c.dir, shimBinary), Options: &runtimeoptions.Options{ConfigBody: []byte(fmt.Sprintf(
			"Root = %q\nBinaryName = %q\n", c.world.RuncRoot, filepath.Join(c.dir, "runtime")))},
		Annotations: map[string]string{groupKey: c.group}, CgroupParent: c.parent,
	})
	c.must(err)
	_, _, err = c.neighbour.Run(c.Context())
	c.must(err)
	c.poll("the neighbour", file(filepath.Join(c.neighbour.RootFS, "ready")).exists)
}

// mountStuck gives the container the filesystem in which a process hangs.
func (c *cell) mountStuck() {
	c.Helper()
	dir := filepath.Join(c.dir, "stuck")
	c.must(os.Mkdir(dir, 0o755))
	var err error
	c.stuck, err = harness.MountStuckFS(dir)
	c.must(err)
}

func (c *cell) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *cell) poll(what string, done func() bool) {
	c.Helper()
	err := harness.Poll(c.Context(), limit, what, func() (bool, error) { return done(), nil })
	if err != nil {
		told, _ := c.told()
		c.Fatalf("%v (the shim tells of %q; the journal has %q; the requests are %s)", err, told, c.journal(), c.describe())
	}
}

// inside is a file of the container's.
func (c *cell) inside(name string) file { return file(filepath.Join(c.record.RootFS, name)) }

// beside is a file of the runtime's and the host's.
func (c *cell) beside(name string) file { return file(filepath.Join(c.dir, name)) }

func (f file) exists() bool {
	_, err := os.Lstat(string(f))
	return err == nil
}

// hold makes a file that is removed when the cell continues.
func (c *cell) hold(f file) {
	c.Helper()
	c.must(os.WriteFile(string(f), nil, 0o644))
	c.held = append(c.held, f)
}

func (c *cell) letGo() {
	c.Helper()
	for _, f := range c.held {
		if err := os.Remove(string(f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			c.Error(err)
		}
	}
	c.held = nil
	if c.stuck != nil {
		if err := c.stuck.Close(); err != nil {
			c.Error(err)
		}
	}
}

// journal is what the container and its handlers have noted, line by line.
func (c *cell) journal() []string {
	if c.record == nil {
		return nil
	}
	data, _ := os.ReadFile(string(c.inside("journal"))) // not there before the first note
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func (c *cell) noted(line string) int {
	count := 0
	for _, noted := range c.journal() {
		if noted == line {
			count++
		}
	}
	return count
}

// ask makes a request in the background.
func (c *cell) ask(what string, do func(context.Context, *request) error) *request {
	r := &request{what: what, done: make(chan struct{})}
	c.mu.Lock()
	c.requests = append(c.requests, r)
	c.mu.Unlock()
	go func() {
		defer close(r.done)
		ctx, cancel := context.WithTimeout(context.Background(), 3*limit) // c.Context ends before the cleanup that waits for this
		defer cancel()
		r.err = do(ctx, r)
	}()
	return r
}

func (r *request) answered() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// answer waits for it.
func (c *cell) answer(r *request) error {
	c.Helper()
	c.poll("the answer to "+r.what, r.answered)
	return r.err
}

// describe the requests so far.
func (c *cell) describe() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var words []string
	for _, r := range c.requests {
		state := "pending"
		if r.answered() {
			state = fmt.Sprintf("answered with %v", r.err)
		}
		words = append(words, r.what+" "+state)
	}
	return strings.Join(words, ", ")
}

func (c *cell) askCreate(a api) {
	c.Helper()
	c.createReq = c.ask("Create", func(ctx context.Context, _ *request) error { return a.create(ctx) })
}

func (c *cell) askStart(a api) {
	c.startReq = c.ask("Start", func(ctx context.Context, _ *request) error { return a.start(ctx) })
}

func (c *cell) askKill(a api, signal syscall.Signal) *request {
	return c.ask("Kill "+strconv.Itoa(int(signal)), func(ctx context.Context, _ *request) error { return a.kill(ctx, signal) })
}

func (c *cell) askStop(a api) *request {
	r := c.askKill(a, syscall.SIGTERM)
	c.stops = append(c.stops, r)
	return r
}

func (c *cell) askDelete(a api) {
	c.deleteReq = c.ask("Delete", func(ctx context.Context, r *request) (err error) {
		r.status, err = a.remove(ctx)
		return err
	})
}

// front is the client whose requests wait when the fault comes.
func (c *cell) front() api { return viaDaemon{c.client, c.id} }

// create the container, whose record has been made, and watch for its end.
func (c *cell) create() {
	c.Helper()
	c.askCreate(c.front())
	c.must(c.answer(c.createReq))
	c.watchExit()
}

// watchExit looks at the State when TaskExit has come: it must be STOPPED by then (docs/spec.md#event-order).
func (c *cell) watchExit() {
	if c.exit != nil {
		return
	}
	result := make(chan error, 1)
	c.exit = result
	events, daemon := c.world.events, viaDaemon{c.second, c.id}
	go func() {
		for {
			ended, err := exitOf(events, c.namespace)
			switch {
			case err != nil:
				result <- nil // the stream has ended with its daemon: nothing is heard
				return
			case ended:
				ctx, cancel := context.WithTimeout(context.Background(), askWait)
				status, err := daemon.state(ctx)
				cancel()
				if err == nil && status != task.Status_STOPPED {
					err = fmt.Errorf("State says %s when TaskExit has been heard", status)
				} else {
					err = nil // gone by now
				}
				result <- err
				return
			}
			select {
			case <-c.Context().Done():
				result <- nil
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
}

func exitOf(events *harness.Events, namespace string) (bool, error) {
	if err := events.Err(); err != nil {
		return false, err
	}
	return slices.Contains(topicsOf(events, namespace, "c"), "/tasks/exit"), nil
}

// topicsOf the container's own events, those of its execs left out.
func topicsOf(events *harness.Events, namespace, id string) []string {
	var topics []string
	for _, event := range events.In(namespace, id) {
		exit, ok := event.Value.(*eventstypes.TaskExit)
		if !ok || exit.ID == id {
			topics = append(topics, event.Topic)
		}
	}
	return topics
}

// connect to the shim, once.
func (c *cell) connect() (*ttrpc.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shim != nil {
		return c.shim, nil
	}
	bundle := c.bundle
	if c.neighbour != nil {
		bundle = filepath.Join(filepath.Dir(bundle), "neighbour")
	}
	client, err := socket(bundle)
	if err == nil {
		c.shim = client
	}
	return client, err
}

// told is the situation that the shim shows, empty if it shows no such container.
func (c *cell) told() (string, error) {
	status, err := c.status()
	return situation(status), err
}

// situation of a container, as docs/lifecycle.md names it: its stage and, as far as they can be seen, the stop that waits, the
// handler that was aborted, and the Delete that waits.
func situation(status *lifecyclev1.ContainerStatus) string {
	stage := status.GetPhase()
	aborted := ""
	for _, run := range status.GetRuns() {
		if run.FinishedAt == nil && run.Error != "" {
			aborted = run.Handler
		}
	}
	switch stage {
	case "Starting", "PostStart":
		if status.PendingSignal != 0 {
			return stage + ", stop waits"
		}
	case "OnExit":
		if aborted != "" && aborted != onExit {
			return stage + ", waits for a handler"
		}
	case "Exited":
		if status.Deadline != nil {
			return stage + ", Delete waits"
		}
	}
	switch stage {
	case "PreStart", "PostStart", "PreStop", "OnExit":
		if aborted != "" {
			return stage + ", aborted"
		}
	}
	return stage
}

func (c *cell) status() (*lifecyclev1.ContainerStatus, error) {
	client, err := c.connect()
	if err != nil {
		return nil, err
	}
	return statusOf(client, c.id)
}

func (c *cell) wantPhase(names ...string) {
	c.Helper()
	c.poll("phase "+strings.Join(names, " or "), func() bool {
		told, err := c.told()
		return err == nil && slices.Contains(names, told)
	})
}

// shims of the cell.
func (c *cell) shims() []harness.Process {
	c.Helper()
	all, err := c.world.Shims()
	c.must(err)
	return slices.DeleteFunc(all, func(p harness.Process) bool {
		at := slices.Index(p.Cmdline, "-namespace")
		return at < 0 || at+1 >= len(p.Cmdline) || p.Cmdline[at+1] != c.namespace || slices.Contains(p.Cmdline, "delete") || slices.Contains(p.Cmdline, "start")
	})
}

// hosts of handlers that run now: of this cell's shim, or left by it.
func (c *cell) hosts() []int {
	c.Helper()
	var found []int
	for _, shim := range c.shims() {
		children, err := shim.Children()
		c.must(err)
		for _, child := range children {
			if child.State != "Z" && strings.Contains(strings.Join(child.Cmdline, " "), "/fd/") || strings.HasPrefix(child.Comm, "lifecycle-hooke") {
				found = append(found, child.PID)
			}
		}
	}
	return found
}

// host is the one that is held.
func (c *cell) host() int {
	c.Helper()
	c.poll("the handler host", c.beside("host").exists)
	data, err := os.ReadFile(string(c.beside("host")))
	c.must(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	c.must(err)
	return pid
}

// init is the container's process, as the runtime has noted it.
func (c *cell) init() int {
	c.Helper()
	data, err := os.ReadFile(filepath.Join(c.bundle, "init.pid"))
	c.must(err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	c.must(err)
	return pid
}

// mark of what belongs to this cell, in descriptions of a snapshot: its directories and its shim have its namespace.
func (c *cell) marks() []string {
	sum := func(id string) string {
		return fmt.Sprintf("%x", sha256.Sum256([]byte(filepath.Join(c.world.Address, c.namespace, id))))
	}
	return []string{"/" + c.namespace + "/", "\"-namespace\" \"" + c.namespace + "\"", "/" + c.namespace + "\"", sum(c.id), sum("group")}
}

// leaks waits until nothing of the cell is left, and says what is.
func (c *cell) leaks() []string {
	c.Helper()
	all := c.world.watch
	all.CgroupParents = []string{cgroupParent}
	own := harness.Watch{CgroupParents: []string{c.parent}}
	marks := c.marks()
	var left []string
	err := harness.Poll(context.Background(), limit/2, "leftovers to go", func() (bool, error) {
		left = nil
		seen, err := all.TakeSnapshot()
		if err != nil {
			return false, err
		}
		for what := range seen {
			if slices.ContainsFunc(marks, func(mark string) bool { return strings.Contains(what, mark) }) {
				left = append(left, what)
			}
		}
		mine, err := own.TakeSnapshot()
		for what := range mine {
			if !strings.HasPrefix(what, "handler host") && !strings.HasPrefix(what, "zombie") { // any cell's: looked at in the end
				left = append(left, what)
			}
		}
		if _, err := os.Stat(c.bundle); err == nil {
			left = append(left, "bundle: "+c.bundle)
		}
		if state := filepath.Join(c.world.RuncRoot, c.namespace, c.id); file(state).exists() {
			left = append(left, "the runtime's state: "+state)
		}
		return len(left) == 0, err
	})
	if err == nil || len(left) > 0 {
		return left
	}
	return []string{err.Error()}
}

// close takes away what a cell that has failed has left.
func (c *cell) close() {
	if c.Failed() {
		told, err := c.told()
		if os.Getenv("FAULTS_LOG") != "" {
			c.Log(c.world.Log())
		}
		c.Logf("the shim tells of %q (%v); the journal has %q; the requests are %s", told, err, c.journal(), c.describe())
	}
	if c.heal != nil {
		c.heal()
	}
	c.letGo()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for _, record := range []*harness.Container{c.record, c.neighbour} {
		if record == nil {
			continue
		}
		if err := record.Remove(ctx); err != nil {
			c.Error(err)
		}
	}
	if c.shim != nil {
		_ = c.shim.Close()
	}
	harness.RemoveCgroupTree(c.parent)
	if err := errors.Join(harness.UnmountBelow(c.dir), os.RemoveAll(c.dir)); err != nil {
		c.Error(err)
	}
}

// gone says whether there is no such task any more.
func (c *cell) gone() bool {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, err := (viaDaemon{c.second, c.id}).state(ctx)
	return errdefs.IsNotFound(err)
}
