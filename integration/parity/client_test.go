package parity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	eventstypes "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/fifo"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/lifecycle-shim/lifecycle-shim/integration/harness"
)

func (w *world) options() *options.Options {
	return &options.Options{Root: w.daemon.RuncRoot, BinaryName: w.target.binary}
}

// program is one run of a scenario against one side. Its methods are a client's calls: each writes its answer into the
// report and continues, for any answer.
type program struct {
	*testing.T
	world *world
	*place
	side  side
	way   way
	api   api
	names *names
	lease string // keeps a checkpoint from containerd's garbage collector
	// twoShims: a pod has got a second one. A stock shim is taken for dead, and its socket removed, where it does not answer the
	// next container's start within 100 ms (docs/understand/decisions.md), so that a busy machine shows it.
	twoShims bool
	again    string // ends the ids of a further try
	dir      string // for files of the host's
	// containers, in the order of their creation.
	containers []*container
	report     []string
}

// container is one of a program's.
type container struct {
	p      *program
	id     string
	record *harness.Container
	config harness.ContainerConfig
	api    api
	// created says that the shim has it, deleted that a request has taken it away.
	created, deleted bool
	creations        int // so far: each has an exit
	// alone: containerd's Delete ends its shim too. What that has not published by then is lost, under either shim: TaskDelete
	// at times, and TaskExit where early says that no request has waited for it.
	alone, early bool
	shim         int // its process, if it has its own
}

func (p *program) note(format string, args ...any) {
	p.report = append(p.report, p.names.text(fmt.Sprintf(format, args...)))
}

// must ends the test where its own work fails: no shim is to blame for that.
func (p *program) must(err error) {
	p.Helper()
	if err != nil {
		p.Fatalf("%s: %v\nso far:\n%s", p.side.name, err, strings.Join(p.report, "\n"))
	}
}

func (p *program) poll(what string, done func() bool) {
	p.Helper()
	p.must(harness.Poll(p.Context(), limit, what, func() (bool, error) { return done(), nil }))
}

// container makes the record of a container, which the end of the program removes.
func (p *program) container(name string, args []string, edits ...func(*harness.ContainerConfig)) *container {
	p.Helper()
	c := &container{p: p, api: p.api, alone: p.way == byDaemon}
	c.config = harness.ContainerConfig{
		ID: p.id(name), Args: args, Runtime: p.side.runtime, Options: p.world.options(),
		CgroupParent: p.world.cgroupParent(p.side), Annotations: map[string]string{},
	}
	for key, value := range p.side.annotations {
		c.config.Annotations[key] = value
	}
	for _, edit := range edits {
		edit(&c.config)
	}
	c.id = c.config.ID
	if c.config.RootFS == "" {
		c.config.RootFS = filepath.Join(p.world.daemon.Dir, "rootfs", p.side.name, c.id)
		p.must(p.world.newRootFS(c.config.RootFS))
	}
	var err error
	c.record, err = p.client.NewContainer(p.Context(), c.config)
	p.must(err)
	p.place.note(p.world.daemon.Address, c.config)
	p.containers = append(p.containers, c)
	return c
}

// id is another one in each scenario, as they run beside each other.
func (p *program) id(name string) string {
	scenario := filepath.Base(filepath.Dir(p.Name()))
	return strings.NewReplacer("_", "-", ",", "", "'", "").Replace(scenario) + "-" + string(p.way) + "-" + name + p.again
}

// run is create and start.
func (p *program) run(name string, args []string, edits ...func(*harness.ContainerConfig)) *container {
	p.Helper()
	c := p.container(name, args, edits...)
	c.create()
	c.start()
	return c
}

// do makes a request and writes down how it went.
func (c *container) do(label string, request proto.Message) (response proto.Message, ok bool) {
	return c.doBy(c.api, label, request)
}

func (c *container) doBy(api api, label string, request proto.Message) (response proto.Message, ok bool) {
	ctx, cancel := context.WithTimeout(c.p.Context(), limit)
	defer cancel()
	response, err := api.do(ctx, request)
	if pid, ok := response.(interface{ GetPid() uint32 }); ok && err == nil {
		c.p.names.learn(pid.GetPid(), c.p.names.text(processName(c.id, request)))
	}
	c.p.report = append(c.p.report, c.p.names.text(label)+": "+c.p.answer(response, err))
	return response, err == nil
}

func processName(id string, request proto.Message) string {
	if start, ok := request.(*taskapi.StartRequest); ok && start.ExecID != "" {
		return id + "/" + start.ExecID
	}
	return id
}

func (p *program) answer(response proto.Message, err error) string {
	if err != nil {
		return p.names.err(err)
	}
	return p.names.message(response)
}

// label names a request in the report: "Kill a/exec 15".
func (c *container) label(method, exec string, more ...any) string {
	words := []string{method, c.id}
	if exec != "" {
		words[1] += "/" + exec
	}
	for _, m := range more {
		words = append(words, fmt.Sprint(m))
	}
	return strings.Join(words, " ")
}

// streams of a process.
type streams struct {
	in, out, err string
	terminal     bool
}

// create always goes through containerd, which makes the bundle and starts the shim.
func (c *container) create(with ...streams) bool {
	c.p.Helper()
	request := &tasks.CreateTaskRequest{}
	if len(with) > 0 {
		request.Stdin, request.Stdout, request.Stderr, request.Terminal = with[0].in, with[0].out, with[0].err, with[0].terminal
	}
	return c.createWith(request)
}

func (c *container) createWith(request *tasks.CreateTaskRequest) bool {
	c.p.Helper()
	request.ContainerID = c.id
	response, ok := c.doBy(daemonAPI{c.p.client, c.p.lease}, c.label("Create", ""), request)
	if !ok {
		return false
	}
	c.created, c.deleted = true, false
	c.creations++
	if c.p.way == bySocket {
		c.connectTo(response.(*tasks.CreateTaskResponse).Pid)
	}
	return true
}

// connectTo calls the container's shim at its socket from now on.
func (c *container) connectTo(pid uint32) {
	c.p.Helper()
	address, err := shimAddress(c.bundle())
	c.p.must(err)
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	c.p.must(err)
	client := ttrpc.NewClient(conn)
	c.p.Cleanup(func() { _ = client.Close() })
	service := "containerd.task.v2.Task"
	if c.p.world.daemon.Server().Modern() {
		service = "containerd.task.v3.Task"
	}
	c.api = socketAPI{client: client, service: service, context: c.p.client.Context}
	if pid != 0 {
		shim, err := parent(pid)
		c.p.must(err)
		c.shim = shim
		c.p.names.learn(uint32(shim), "shim of "+c.id)
	}
}

func (c *container) bundle() string {
	return filepath.Join(c.p.world.daemon.Dir, "state", "io.containerd.runtime.v2.task", c.p.client.Namespace, c.id)
}

func process(execs []string) string { return strings.Join(execs, "") }

func (c *container) start(execs ...string) bool {
	c.p.Helper()
	_, ok := c.do(c.label("Start", process(execs)), &taskapi.StartRequest{ID: c.id, ExecID: process(execs)})
	return ok
}

func (c *container) state(execs ...string) {
	c.p.Helper()
	c.do(c.label("State", process(execs)), &taskapi.StateRequest{ID: c.id, ExecID: process(execs)})
}

func (c *container) kill(signal syscall.Signal, execs ...string) {
	c.p.Helper()
	c.do(c.label("Kill", process(execs), int(signal)), &taskapi.KillRequest{ID: c.id, ExecID: process(execs), Signal: uint32(signal)})
}

func (c *container) killAll(signal syscall.Signal) {
	c.p.Helper()
	c.do(c.label("Kill", "", int(signal), "all"), &taskapi.KillRequest{ID: c.id, Signal: uint32(signal), All: true})
}

// wait for the end of a process, and for its event: the two come in no order.
func (c *container) wait(execs ...string) {
	c.p.Helper()
	if _, ok := c.do(c.label("Wait", process(execs)), &taskapi.WaitRequest{ID: c.id, ExecID: process(execs)}); ok {
		c.awaitExit(execs...)
	}
}

func (c *container) awaitExit(execs ...string) {
	c.p.Helper()
	id, count := c.id, c.creations
	if len(execs) > 0 {
		id, count = process(execs), 1
	}
	c.p.poll("the exit of "+id, func() bool { return c.exits(id) >= count })
}

// exits counts those of a process so far.
func (c *container) exits(id string) int {
	count := 0
	for _, event := range c.events() {
		if isExit(event, id) {
			count++
		}
	}
	return count
}

func (c *container) await(topic string) {
	c.p.Helper()
	c.p.poll("the event "+topic+" of "+c.id, func() bool {
		return slices.ContainsFunc(c.events(), func(event harness.Event) bool { return event.Topic == topic })
	})
}

// events are the container's task events so far.
func (c *container) events() []harness.Event {
	return slices.DeleteFunc(c.p.place.events.Of(c.id), func(event harness.Event) bool {
		return event.Namespace != c.p.client.Namespace || !strings.HasPrefix(event.Topic, "/tasks/")
	})
}

func (c *container) delete(execs ...string) bool {
	c.p.Helper()
	early := c.exits(c.id) < c.creations
	_, ok := c.do(c.label("Delete", process(execs)), &taskapi.DeleteRequest{ID: c.id, ExecID: process(execs)})
	if ok && len(execs) == 0 {
		c.deleted, c.early = true, c.early || early
	}
	return ok
}

// exec adds a process to the container.
func (c *container) exec(id string, process *specs.Process, with ...streams) bool {
	c.p.Helper()
	spec, err := typeurl.MarshalAnyToProto(process)
	c.p.must(err)
	request := &taskapi.ExecProcessRequest{ID: c.id, ExecID: id, Spec: spec}
	if len(with) > 0 {
		request.Stdin, request.Stdout, request.Stderr, request.Terminal = with[0].in, with[0].out, with[0].err, with[0].terminal
	}
	_, ok := c.do(c.label("Exec", id), request)
	return ok
}

// command is a process for exec.
func command(args ...string) *specs.Process {
	return &specs.Process{Args: args, Env: []string{"PATH=/bin"}, Cwd: "/"}
}

func (c *container) resize(width, height uint32, execs ...string) {
	c.p.Helper()
	c.do(c.label("ResizePty", process(execs), width, height), &taskapi.ResizePtyRequest{ID: c.id, ExecID: process(execs), Width: width, Height: height})
}

func (c *container) closeIO(execs ...string) {
	c.p.Helper()
	c.do(c.label("CloseIO", process(execs)), &taskapi.CloseIORequest{ID: c.id, ExecID: process(execs), Stdin: true})
}

func (c *container) pids()   { c.do(c.label("Pids", ""), &taskapi.PidsRequest{ID: c.id}) }
func (c *container) stats()  { c.do(c.label("Stats", ""), &taskapi.StatsRequest{ID: c.id}) }
func (c *container) pause()  { c.do(c.label("Pause", ""), &taskapi.PauseRequest{ID: c.id}) }
func (c *container) resume() { c.do(c.label("Resume", ""), &taskapi.ResumeRequest{ID: c.id}) }

// update sets limits: an *specs.LinuxResources, or what a mistaken client sends.
func (c *container) update(resources any) {
	c.p.Helper()
	encoded, err := typeurl.MarshalAnyToProto(resources)
	c.p.must(err)
	c.do(c.label("Update", ""), &taskapi.UpdateTaskRequest{ID: c.id, Resources: encoded})
}

// ready waits for a file that the container's process makes when it is.
func (c *container) ready(names ...string) {
	c.p.Helper()
	if len(names) == 0 {
		names = []string{"ready"}
	}
	for _, name := range names {
		c.p.poll(name+" in "+c.id, func() bool { return c.has(name) })
	}
}

// executes waits until the process is that program, and no runtime's or shell's any more, which have their own ways with
// signals: busybox' sh ignores SIGQUIT.
func (c *container) executes(program string) {
	c.p.Helper()
	comm := fmt.Sprintf("/proc/%d/comm", c.pid())
	c.p.poll(program+" in "+c.id, func() bool {
		name, _ := os.ReadFile(comm) // gone, if it has ended
		return string(name) == program+"\n"
	})
}

// settled waits until the process is ready or has ended.
func (c *container) settled() {
	c.p.Helper()
	c.p.poll("ready in "+c.id+", or its exit", func() bool {
		return c.has("ready") || slices.ContainsFunc(c.events(), func(event harness.Event) bool { return event.Topic == "/tasks/exit" })
	})
}

func (c *container) has(name string) bool {
	_, err := os.Stat(filepath.Join(c.record.RootFS, name))
	return err == nil
}

func (c *container) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(c.record.RootFS, name)) // there is none, if it was not written
	return string(text)
}

func (c *container) touch(name string) {
	c.p.Helper()
	c.p.must(os.WriteFile(filepath.Join(c.record.RootFS, name), nil, 0o644))
}

// fifo makes one for a stream.
func (p *program) fifo(name string) string {
	p.Helper()
	path := filepath.Join(p.dir, name)
	p.must(syscall.Mkfifo(path, 0o600))
	return path
}

// reader reads a FIFO to its end in the background. text waits for that.
func (p *program) reader(path string) (text func() string) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), limit)
	stream, err := fifo.OpenFifo(ctx, path, syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
	p.must(err)
	read := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(stream) // an end by the context: the report will differ
		read <- string(data)
	}()
	p.Cleanup(func() {
		cancel()
		_ = stream.Close()
	})
	return func() string { return <-read }
}

// writer opens a FIFO for a process's stdin.
func (p *program) writer(path string) io.WriteCloser {
	p.Helper()
	stream, err := fifo.OpenFifo(p.Context(), path, syscall.O_WRONLY|syscall.O_NONBLOCK, 0)
	p.must(err)
	p.Cleanup(func() { _ = stream.Close() })
	return stream
}

// together makes the same request a number of times at once, and writes the answers down when all have come. begun is
// called when they are on their way.
func (c *container) together(count int, label string, request proto.Message, begun func()) {
	c.p.Helper()
	type result struct {
		response proto.Message
		err      error
	}
	results := make([]result, count)
	var all sync.WaitGroup
	for i := range results {
		all.Go(func() {
			response, err := c.api.do(c.p.Context(), proto.Clone(request))
			results[i] = result{response, err}
		})
	}
	begun()
	all.Wait()
	for _, r := range results {
		c.p.report = append(c.p.report, label+": "+c.p.answer(r.response, r.err))
	}
}

// finish takes away what the scenario has left, and appends the events to the report.
func (p *program) finish() {
	p.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	for _, c := range p.containers {
		c.end(ctx)
	}
	for _, c := range p.containers {
		p.report = append(p.report, "events of "+p.names.text(c.id)+":")
		p.report = append(p.report, c.history()...)
	}
	for _, c := range p.containers {
		c.forget(ctx)
	}
}

// history describes the container's events in their order. Two kinds have none, under the stock shim either: TaskDelete, which
// a request publishes and not the exit, is put behind the TaskExit before it; TaskOOM, which the watcher of the cgroup
// publishes past the queue of the others, is put to the end, once.
func (c *container) history() []string {
	c.p.Helper()
	var lines, oom, early []string
	exits, deletions := 0, 0
	for _, event := range c.events() {
		value, ok := event.Value.(proto.Message)
		if !ok {
			c.p.Errorf("%s: %s is not decoded", c.p.side.name, event.Topic)
			continue
		}
		line := "  " + event.Topic + " " + c.p.names.message(value)
		switch {
		case event.Topic == "/tasks/oom":
			oom = []string{line}
		case c.alone && (event.Topic == "/tasks/delete" || c.early && isExit(event, c.id)):
		case event.Topic == "/tasks/delete" && exits == deletions:
			early = append(early, line)
		default:
			lines = append(lines, line)
		}
		if isExit(event, c.id) {
			lines, early = append(lines, early...), nil
			exits++
		}
		if event.Topic == "/tasks/delete" {
			deletions++
		}
	}
	return slices.Concat(lines, early, oom)
}

func isExit(event harness.Event, id string) bool {
	exit, ok := event.Value.(*eventstypes.TaskExit)
	return ok && exit.ID == id
}

// ended says whether every creation that has been seen has its exit and its deletion.
func (c *container) ended() bool {
	created, exits, deleted := 0, 0, 0
	for _, event := range c.events() {
		switch {
		case event.Topic == "/tasks/create":
			created++
		case event.Topic == "/tasks/delete":
			deleted++
		case isExit(event, c.id):
			exits++
		}
	}
	if c.alone {
		return created > 0 && (c.early || created <= exits)
	}
	return created > 0 && created <= exits && created <= deleted
}

// end ends the container, and waits for its events.
func (c *container) end(ctx context.Context) {
	c.p.Helper()
	if c.created && !c.deleted {
		_, _ = c.api.do(ctx, &taskapi.ResumeRequest{ID: c.id}) // frozen processes do not die
		if _, err := c.api.do(ctx, &taskapi.KillRequest{ID: c.id, Signal: uint32(syscall.SIGKILL), All: c.config.HostPID}); err == nil {
			_, _ = c.api.do(ctx, &taskapi.WaitRequest{ID: c.id})
			c.awaitExit()
		}
		_, _ = c.api.do(ctx, &taskapi.DeleteRequest{ID: c.id})
	}
	if c.created {
		c.p.poll("the last events of "+c.id, c.ended)
	}
}

// forget makes containerd tidy up. What was deleted at the shim's socket it publishes once more, as it has not seen it.
func (c *container) forget(ctx context.Context) {
	c.p.Helper()
	if c.created {
		_, err := daemonAPI{client: c.p.client}.do(ctx, &taskapi.DeleteRequest{ID: c.id})
		if err != nil && !errdefs.IsNotFound(errgrpc.ToNative(err)) {
			c.p.Errorf("%s: delete %s: %v", c.p.side.name, c.id, err)
		}
	}
	if err := errors.Join(c.record.Remove(ctx), os.RemoveAll(c.record.RootFS)); err != nil {
		c.p.Errorf("%s: %v", c.p.side.name, err)
	}
}
