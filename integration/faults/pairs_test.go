package faults

import (
	"context"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// pairPhases are those in which two clients meet: the ones that last.
var pairPhases = []string{"PreStart", "PostStart", "Running", "PreStop", "OnExit", "Exited"}

// method of the shim's task service, as a client calls it.
type method struct {
	name string
	// ends: the container may be in another phase when it has been answered.
	ends bool
	// undo removes what it has left; nil for nothing.
	undo func(context.Context, taskapi.TTRPCTaskService)
	do   func(context.Context, taskapi.TTRPCTaskService, *caller) error
}

// caller is one of the two.
type caller struct {
	name   string // ids of execs
	bundle string
	dir    string // for a checkpoint
}

func drop[T any](_ T, err error) error { return err }

const waitMethod, deleteMethod = "Wait", "Delete"

// thaw lets go who has been paused.
func thaw(ctx context.Context, s taskapi.TTRPCTaskService) {
	_, _ = s.Resume(ctx, &taskapi.ResumeRequest{ID: "c"}) // not paused: what we want
}

// methods are all of the service's. TestMethods holds them to it.
var methods = []method{
	{name: "Create", do: func(ctx context.Context, s taskapi.TTRPCTaskService, c *caller) error {
		return drop(s.Create(ctx, &taskapi.CreateTaskRequest{ID: "c", Bundle: c.bundle}))
	}},
	{name: "Start", do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.Start(ctx, &taskapi.StartRequest{ID: "c"}))
	}},
	{name: "Kill", ends: true, do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.Kill(ctx, &taskapi.KillRequest{ID: "c", Signal: uint32(unix.SIGTERM)}))
	}},
	// Refused with "try again" where what was killed has not exited in time, which a busy machine can bring about.
	{name: deleteMethod, ends: true, do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		for {
			err := drop(s.Delete(ctx, &taskapi.DeleteRequest{ID: "c"}))
			if err == nil || !strings.HasSuffix(err.Error(), "has not exited yet: try again") {
				return err
			}
		}
	}},
	{name: "Exec", do: func(ctx context.Context, s taskapi.TTRPCTaskService, c *caller) error {
		spec, err := typeurl.MarshalAnyToProto(&specs.Process{Args: []string{"/bin/true"}, Cwd: "/"})
		if err != nil {
			return err
		}
		if _, err := s.Exec(ctx, &taskapi.ExecProcessRequest{ID: "c", ExecID: c.name, Spec: spec}); err != nil {
			return err
		}
		if _, err := s.Start(ctx, &taskapi.StartRequest{ID: "c", ExecID: c.name}); err == nil {
			_, _ = s.Wait(ctx, &taskapi.WaitRequest{ID: "c", ExecID: c.name})
		}
		return drop(s.Delete(ctx, &taskapi.DeleteRequest{ID: "c", ExecID: c.name}))
	}},
	{name: "Pause", undo: thaw, do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.Pause(ctx, &taskapi.PauseRequest{ID: "c"}))
	}},
	{name: "Resume", do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.Resume(ctx, &taskapi.ResumeRequest{ID: "c"}))
	}},
	{name: "State", do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.State(ctx, &taskapi.StateRequest{ID: "c"}))
	}},
	{name: "Pids", do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.Pids(ctx, &taskapi.PidsRequest{ID: "c"}))
	}},
	// The container's exit answers it, so it is waited for only then.
	{name: waitMethod, do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.Wait(ctx, &taskapi.WaitRequest{ID: "c"}))
	}},
	{name: "Update", do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		shares := uint64(512)
		resources, err := typeurl.MarshalAnyToProto(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}})
		if err != nil {
			return err
		}
		return drop(s.Update(ctx, &taskapi.UpdateTaskRequest{ID: "c", Resources: resources}))
	}},
	{name: "Stats", do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.Stats(ctx, &taskapi.StatsRequest{ID: "c"}))
	}},
	// There is no CRIU on the daemons' path: this one always fails, in the runtime.
	{name: "Checkpoint", do: func(ctx context.Context, s taskapi.TTRPCTaskService, c *caller) error {
		o, err := typeurl.MarshalAnyToProto(&options.CheckpointOptions{})
		if err != nil {
			return err
		}
		return drop(s.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: "c", Path: filepath.Join(c.dir, "checkpoint-"+c.name), Options: o}))
	}},
	{name: "CloseIO", do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.CloseIO(ctx, &taskapi.CloseIORequest{ID: "c", Stdin: true}))
	}},
	{name: "ResizePty", do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: "c", Width: 80, Height: 25}))
	}},
	{name: "Connect", do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.Connect(ctx, &taskapi.ConnectRequest{ID: "c"}))
	}},
	// With a container it does nothing; without, it ends the shim.
	{name: "Shutdown", ends: true, do: func(ctx context.Context, s taskapi.TTRPCTaskService, _ *caller) error {
		return drop(s.Shutdown(ctx, &taskapi.ShutdownRequest{ID: "c"}))
	}},
}

func methodNames() []string {
	names := make([]string, len(methods))
	for i, m := range methods {
		names[i] = m.name
	}
	return names
}

// TestMethods: the service has no method that no pair has.
func TestMethods(t *testing.T) {
	service := reflect.TypeFor[taskapi.TTRPCTaskService]()
	for i := range service.NumMethod() {
		if name := service.Method(i).Name; !slices.Contains(methodNames(), name) {
			t.Errorf("method %s is in no pair", name)
		}
	}
	if service.NumMethod() != len(methods) {
		t.Errorf("%d methods are paired, the service has %d", len(methods), service.NumMethod())
	}
}

// TestPairs: each phase is one test for each method, which meets every method from itself on, and one for each pair that may
// move the container on.
func TestPairs(t *testing.T) {
	for row, name := range pairPhases {
		p := phases[slices.IndexFunc(phases, func(p *phase) bool { return p.name == name })]
		t.Run("pairs in "+name, func(t *testing.T) {
			column := 0
			run := func(what string, first method, others ...method) {
				if len(others) == 0 {
					return
				}
				if column++; isChosen(row, column) {
					t.Run(what, func(t *testing.T) {
						t.Parallel()
						meet(t, p, first, others)
					})
				}
			}
			for i, first := range methods {
				var staying []method
				for _, other := range methods[i:] {
					if first.ends || other.ends {
						run(first.name+" with "+other.name, first, other)
					} else {
						staying = append(staying, other)
					}
				}
				run(first.name, first, staying...)
			}
		})
	}
}

// meet makes the pairs of first with each of others. A container that a pair has moved on is brought to its end, and the next
// pair gets a new one.
func meet(t *testing.T, p *phase, first method, others []method) {
	t.Helper()
	w, err := sharedWorld("runc")
	if err != nil {
		t.Fatal(err)
	}
	var c *pairCell
	for _, other := range others {
		if c == nil {
			c = newPairCell(t, w, p)
		}
		if !c.together(first, other) {
			c.finishPairs(first.name + " with " + other.name)
			c = nil
		}
		if t.Failed() {
			return
		}
	}
	if c != nil {
		c.finishPairs(first.name)
	}
}

// pairCell is a cell with two clients at its shim.
type pairCell struct {
	*cell
	callers [2]*caller
	shims   [2]taskapi.TTRPCTaskService
	calls   int
	paused  bool // at a stop, so preStop may have found it so
	stopped bool // a stop was asked for by a pair, and accepted
	deleted bool
}

// serial distinguishes the cells of one test.
var serial atomic.Int64

func newPairCell(t *testing.T, w *world, p *phase) *pairCell {
	t.Helper()
	c := &pairCell{cell: newCellNamed(t, w, p, "runc", fmt.Sprintf("pair-%d", serial.Add(1)))}
	p.prepare(c.cell)
	c.make()
	p.reach(c.cell)
	c.wantPhase(p.isTold()...)
	for i := range c.callers {
		conn, err := socket(c.bundle)
		c.must(err)
		c.Cleanup(func() { _ = conn.Close() })
		c.shims[i] = taskapi.NewTTRPCTaskClient(conn)
		c.callers[i] = &caller{bundle: c.bundle, dir: c.dir}
	}
	return c
}

// together makes two requests at the same time, and says whether the container stands where it stood.
func (c *pairCell) together(first, other method) bool {
	c.Helper()
	c.calls++
	gate := make(chan struct{})
	pair := make([]*request, 2)
	for i, m := range []method{first, other} {
		who := *c.callers[i]
		who.name = fmt.Sprintf("x%d-%d", c.calls, i)
		pair[i] = c.ask(m.name, func(ctx context.Context, _ *request) error {
			<-gate
			return m.do(namespaces.WithNamespace(ctx, c.namespace), c.shims[i], &who)
		})
	}
	close(gate)
	if i := slices.IndexFunc([]method{first, other}, func(m method) bool { return m.undo != nil }); i >= 0 {
		// The other may have to wait for what is undone.
		_ = c.answer(pair[i])
		ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), c.namespace), limit)
		defer cancel()
		c.poll("what is paused to be let go", func() bool {
			[]method{first, other}[i].undo(ctx, c.shims[i])
			return pair[1-i].answered() || []method{first, other}[1-i].name == waitMethod
		})
		[]method{first, other}[i].undo(ctx, c.shims[i])
		c.paused = c.paused || []method{first, other}[1-i].name == "Kill"
	}
	if c.phase.name == "OnExit" && (first.name == deleteMethod || other.name == deleteMethod) {
		c.letGo() // it waits for onExit
	}
	for i, m := range []method{first, other} {
		if m.name == waitMethod {
			continue
		}
		err := c.answer(pair[i])
		switch {
		case m.name == "Kill" && err == nil:
			c.stopped = true
		case m.name == deleteMethod && err == nil:
			c.deleted = true
		case err != nil && strings.Contains(err.Error(), "internal error"):
			c.Errorf("%s with %s: %v", first.name, other.name, err)
		}
	}
	told, err := c.told()
	stays := err == nil && slices.Contains(c.phase.isTold(), told)
	if !stays && !first.ends && !other.ends {
		c.Errorf("%s with %s: the phase was %s and is %q (%v)", first.name, other.name, c.phase.name, told, err)
	}
	return stays
}

// finishPairs brings the container to the phase's end.
func (c *pairCell) finishPairs(after string) {
	c.Helper()
	e := c.phase.goesOn()
	if c.paused {
		e.preStop = anyTimes
	}
	if c.phase.name == "PreStart" && (c.stopped || c.deleted) {
		e = e.notStarted("signal 15 arrived")
	}
	if c.deleted {
		// containerd has not been asked. It learns of it when the shim has ended, which a shim without containers does on request.
		c.letGo()
		c.wantAnswers()
		c.wantJournal(e)
		ctx := namespaces.WithNamespace(c.Context(), c.namespace)
		_, _ = c.shims[0].Shutdown(ctx, &taskapi.ShutdownRequest{ID: c.id}) // its connection may close before the answer
		c.poll("containerd to take the task away", c.gone)
		for _, leak := range c.leaks() {
			c.Errorf("left behind: %s", leak)
		}
	} else {
		if c.stopped && c.phase.pending {
			e.start = "signal 15 arrived"
		}
		if c.stopped {
			c.stops = append(c.stops, c.ask("nothing", func(context.Context, *request) error { return nil }))
		}
		c.finish(e)
	}
	if c.Failed() {
		c.Logf("after %s", after)
	}
}
