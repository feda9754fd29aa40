package faults

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
)

// end is how a cell ends.
type end struct {
	// text is the cell of FAULTS.md.
	text string
	// nothing: the fault cannot be in this phase; inflict shows that it cannot, and the life continues.
	nothing bool
	// lost: the container, and all that belongs to it, is gone.
	lost bool
	// unanswered: a client that waited when the fault came gets an error, or the answer that it would have got.
	unanswered bool
	// unstarted: the runtime says that the process was not started, or it never was, so there is no TaskStart.
	unstarted bool
	// over: the shim ends it by itself.
	over bool
	// fails are the requests that fail under the fault, in their order. Each is made again when it is healed.
	fails []string
	// The rest is as a phase has it.
	start                  string
	preStop, terms, onExit int
	status                 uint32
}

// goesOn is a phase's own end.
func (p *phase) goesOn() end {
	return end{
		text: "continues", start: p.start, preStop: p.preStop, terms: p.terms, onExit: p.onExit, status: p.status,
		unstarted: p.unstarted, over: p.unstarted,
	}
}

// notStarted is the end where preStart, or the runtime's start after it, has failed with these words.
func (e end) notStarted(words string) end {
	e.start, e.preStop, e.terms, e.status, e.unstarted, e.over = words, 0, 0, 137, true, true
	return e
}

// finish brings the container to its end, as a client would, and looks at everything.
func (c *cell) finish(e end) {
	c.Helper()
	c.letGo()
	if e.lost {
		c.finishLost()
		return
	}
	if c.group == "" { // else it is gone already
		c.finishCreate(e)
		c.finishStart(e)
		c.finishStop(e)
		c.finishDelete(e)
	}
	if c.waits() && c.heal != nil {
		c.takeBack()
	}
	c.finishNeighbour(5)
	if c.heal != nil {
		c.takeBack()
	}
	c.wantAnswers()
	if !slices.Equal(c.failed, e.fails) {
		c.Errorf("the requests %q have failed, want %q (%s)", c.failed, e.fails, c.describe())
	}
	c.wantJournal(e)
	c.wantEvents(e)
	for _, leak := range c.leaks() {
		c.Errorf("left behind: %s", leak)
	}
}

func (c *cell) takeBack() {
	c.Helper()
	heal := c.heal
	c.heal = nil
	heal()
}

// try makes a request, and if it fails under the fault, makes it again without.
func (c *cell) try(what string, ask func() *request) error {
	c.Helper()
	err := c.answer(ask())
	if err == nil || c.heal == nil {
		return err
	}
	c.failed = append(c.failed, what)
	c.takeBack()
	return c.answer(ask())
}

// waits says whether the answers to what was asked for before the fault come only when it is healed.
func (c *cell) waits() bool {
	_, direct := c.api.(viaSocket)
	return direct
}

func (c *cell) finishCreate(e end) {
	c.Helper()
	if c.waits() {
		c.poll("the creation", func() bool { _, err := c.api.state(c.Context()); return err == nil })
		c.watchExit()
		return
	}
	if err := c.answer(c.createReq); err != nil {
		if e.unanswered {
			// A client that has lost the answer looks whether there is something now, and takes it away.
			c.poll("the abandoned container to go, or to be deleted", func() bool {
				_, err := c.api.remove(c.Context())
				return errdefs.IsNotFound(err) && !file(c.bundle).exists() && !c.dyingBundle().exists()
			})
		} else {
			c.failed = append(c.failed, "Create")
			c.remade = strings.Contains(err.Error(), ttrpc.ErrClosed.Error())
		}
		if c.heal != nil {
			c.takeBack()
		}
		c.poll("the container to be created after all", func() bool { // while containerd tidies up, a Create fails
			c.askCreate(c.api)
			if c.answer(c.createReq) == nil {
				return true
			}
			if e.unanswered {
				c.must(os.RemoveAll(string(c.dyingBundle())))
			}
			return false
		})
	}
	c.watchExit()
}

// dyingBundle is the name to which containerd moves a bundle to remove it (atomicDelete, core/runtime/v2/bundle.go). After a creation that
// failed it does so twice, by path: after the shim's delete command, and before it answers. The second takes the bundle that another
// creation with the same id has made meanwhile, and what that writes while its directory is being removed can stay: that creation
// fails, and for as long as it stays no bundle with this id can be removed again.
func (c *cell) dyingBundle() file {
	return file(filepath.Join(filepath.Dir(c.bundle), "."+c.id))
}

func (c *cell) finishStart(e end) {
	c.Helper()
	if c.waits() {
		if c.startReq == nil {
			c.askStart(c.api)
		}
		c.awaitStart()
		return
	}
	if c.startReq == nil {
		c.wantStart(e, c.try("Start", c.startAgain))
		return
	}
	err := c.answer(c.startReq)
	switch {
	case err != nil && e.unanswered:
		c.awaitStart()
		return
	case err != nil && slices.Contains(e.fails, "Start"):
		if c.killReq != nil {
			c.answerKill()
		}
		c.failed = append(c.failed, "Start")
		c.takeBack()
		err = c.answer(c.startAgain())
	}
	c.wantStart(e, err)
}

// awaitStart waits for the start's end where its answer is not to be had.
func (c *cell) awaitStart() {
	c.Helper()
	c.poll("the start's end", func() bool {
		told, err := c.told()
		return err == nil && !slices.ContainsFunc([]string{"Created", "PreStart", "Cancelled", "Starting", "PostStart", "OnExit"}, func(before string) bool {
			return strings.HasPrefix(told, before)
		})
	})
}

func (c *cell) startAgain() *request {
	c.askStart(c.api)
	return c.startReq
}

func (c *cell) wantStart(e end, err error) {
	c.Helper()
	if e.start == "" && err != nil {
		c.Errorf("Start: %v", err)
	}
	if e.start != "" && (err == nil || !strings.Contains(err.Error(), e.start)) {
		c.Errorf("Start is answered with %v, want an error that says %q", err, e.start)
	}
}

// answerKill waits for the SIGKILL that no client has waited for.
func (c *cell) answerKill() {
	c.Helper()
	if err := c.answer(c.killReq); err != nil {
		c.failed = append(c.failed, "Kill")
		c.killed = false
	}
	c.killReq = nil
}

func (c *cell) finishStop(e end) {
	c.Helper()
	if c.killReq != nil && !c.waits() && !e.unanswered {
		c.answerKill()
		if c.heal != nil && !c.killed {
			c.takeBack()
		}
	}
	asked := false
	for _, stop := range c.stops {
		if err := c.answer(stop); err == nil {
			asked = true
		}
	}
	if e.terms == 1 && !asked && !strings.Contains(e.start, "timed out") && !strings.Contains(e.start, "cannot start") {
		c.poll("the entrypoint", c.inside("ready").exists)
		c.must(c.try("Kill", func() *request { return c.askStop(c.api) }))
	}
	if e.status == 137 && !c.killed && !e.over {
		if e.terms == 1 {
			c.poll("TERM", func() bool { return c.noted("TERM") == 1 })
		}
		c.kill()
	}
	if c.deleteReq != nil {
		return // it has been waited for, and the Delete may have taken it away, its shim too
	}
	c.wait(e.status)
}

// kill it, which nothing holds back.
func (c *cell) kill() {
	c.Helper()
	c.must(c.try("Kill", func() *request { return c.askKill(c.api, syscall.SIGKILL) }))
	c.killed = true
}

// wait for the exit, with this status.
func (c *cell) wait(status uint32) {
	c.Helper()
	r := c.ask("Wait", func(ctx context.Context, r *request) (err error) {
		r.status, err = c.api.wait(ctx)
		return err
	})
	if err := c.answer(r); err != nil {
		c.Fatalf("Wait: %v", err)
	}
	if r.status != status {
		c.Errorf("Wait: exit status %d, want %d", r.status, status)
	}
}

func (c *cell) finishDelete(e end) {
	c.Helper()
	if c.waits() {
		c.takeBack()
		c.api = viaDaemon{c.second, c.id}
		c.wantStart(e, c.answer(c.startReq))
	}
	var err error
	if c.deleteReq != nil {
		err = c.answer(c.deleteReq)
		if err != nil && e.unanswered {
			c.poll("the lost Delete, or another", func() bool {
				_, err := c.api.remove(c.Context())
				return err == nil || errdefs.IsNotFound(err)
			})
			return
		}
		if err != nil && slices.Contains(e.fails, "Delete") {
			c.failed = append(c.failed, "Delete")
			c.takeBack()
			c.askDelete(c.api)
			err = c.answer(c.deleteReq)
		}
	} else {
		err = c.try("Delete", func() *request { c.askDelete(c.api); return c.deleteReq })
	}
	c.must(err)
	if c.deleteReq.status != e.status {
		c.Errorf("Delete: exit status %d, want %d", c.deleteReq.status, e.status)
	}
}

// finishLost: containerd knows that the shim is dead, and has ended its containers.
func (c *cell) finishLost() {
	c.Helper()
	c.poll("the task to be taken away", c.gone)
	c.wantAnswers()
	if c.heal != nil {
		c.takeBack()
	}
	c.finishNeighbour(137)
	c.wantOnce()
	for _, leak := range c.leaks() {
		c.Errorf("left behind: %s", leak)
	}
}

// neighbourKill is what a client asks for of the neighbour, when nothing is left of the container.
const neighbourKill = "Kill of the neighbour"

// finishNeighbour wants the neighbour to have been left alone, or to have gone with its shim.
func (c *cell) finishNeighbour(status uint32) {
	c.Helper()
	if c.neighbour == nil {
		return
	}
	defer func() {
		if err := c.neighbour.Remove(c.Context()); err != nil {
			c.Error(err)
		}
	}()
	if status == 137 {
		c.poll("the neighbour to be taken away", func() bool {
			_, err := c.neighbour.State(c.Context())
			return errdefs.IsNotFound(err)
		})
		return
	}
	if _, err := c.neighbour.Kill(c.Context(), syscall.SIGTERM); err != nil {
		if c.heal == nil {
			c.Fatal(err)
		}
		c.failed = append(c.failed, neighbourKill)
		c.takeBack()
		_, err = c.neighbour.Kill(c.Context(), syscall.SIGTERM)
		c.must(err)
	}
	got, err := c.neighbour.Wait(c.Context())
	if err != nil || got != status {
		c.Errorf("the neighbour has ended with %d, %v, want %d", got, err, status)
	}
}

// wantAnswers: docs/spec.md#answered-once and docs/spec.md#no-hang. A call of gRPC's or ttrpc's returns once, or never.
func (c *cell) wantAnswers() {
	c.Helper()
	c.mu.Lock()
	all := slices.Clone(c.requests)
	c.mu.Unlock()
	for _, r := range all {
		_ = c.answer(r) // what it was is its finish's business
	}
}

// wantOnce: docs/spec.md#prestop-once and docs/spec.md#signal-once, after any fault.
func (c *cell) wantOnce() {
	c.Helper()
	journal := c.journal()
	at := func(line string) int { return slices.Index(journal, line) }
	for _, line := range []string{preStart, "entrypoint", postStart, preStop, "TERM", onExit} {
		if count := c.noted(line); count > 1 {
			c.Errorf("%d times %q in %q", count, line, journal)
		}
	}
	if term := at("TERM"); term >= 0 && at(preStop) > term {
		c.Errorf("preStop runs after the signal was sent: %q", journal)
	}
	if begin := at("entrypoint"); begin >= 0 && c.has(preStart) && (at("end of "+preStart) < 0 || at("end of "+preStart) > begin) {
		c.Errorf("the entrypoint runs before preStart has ended: %q", journal)
	}
	life, after := c.parts()
	for i, line := range life {
		if strings.HasPrefix(line, "exit ") && i != len(life)-1 {
			c.Errorf("something runs after the exit: %q", journal)
		}
	}
	for _, line := range after {
		if line != onExit && line != "end of "+onExit && !strings.HasPrefix(line, "told ") {
			c.Errorf("something runs after onExit has begun: %q", journal)
		}
	}
}

// parts of the journal: what onExit has noted is after the life.
func (c *cell) parts() (life, after []string) {
	journal := c.journal()
	if at := slices.Index(journal, onExit); at >= 0 {
		return journal[:at], journal[at:]
	}
	return journal, nil
}

// wantJournal: docs/spec.md#prestop-once, docs/spec.md#signal-once, docs/spec.md#status-true.
func (c *cell) wantJournal(e end) {
	c.Helper()
	c.wantOnce()
	for line, want := range map[string]int{preStop: e.preStop, "TERM": e.terms, onExit: e.onExit} {
		if got := c.noted(line); want != anyTimes && got != want {
			c.Errorf("%d times %q, want %d: %q", got, line, want, c.journal())
		}
	}
	life, after := c.parts()
	if at := slices.Index(after, "end of "+onExit); at >= 0 && (at+1 >= len(after) || after[at+1] != "told "+e.result()) {
		c.Errorf("onExit is not told %q: %q", e.result(), after)
	}
	last := ""
	if len(life) > 0 {
		last = life[len(life)-1]
	}
	said, own := strings.CutPrefix(last, "exit ")
	if own && said != strconv.Itoa(int(e.status)) || !own && e.status < 128 && c.noted("entrypoint") > 0 {
		c.Errorf("the status is %d, and the last that the entrypoint has noted is %q", e.status, last)
	}
}

// result is what an onExit gets as the result, docs/use/handlers.md.
func (e end) result() string {
	switch {
	case e.unstarted:
		return "start-failed"
	case e.status > 128:
		return "signal"
	default:
		return "exit-code"
	}
}

// wantEvents: docs/spec.md#event-order.
func (c *cell) wantEvents(e end) {
	c.Helper()
	events := c.world.events
	if events.Err() != nil || e.unanswered {
		return // its daemon has been away, and what was published meanwhile is lost, as under the stock shim
	}
	c.poll("TaskExit", func() bool { return slices.Contains(topicsOf(events, c.namespace, c.id), "/tasks/exit") })
	topics := topicsOf(events, c.namespace, c.id)
	started, exited := slices.Index(topics, "/tasks/start"), slices.Index(topics, "/tasks/exit")
	if started > exited || started < 0 != e.unstarted {
		c.Errorf("events %v: want TaskStart before TaskExit", topics)
	}
	if err := <-c.exit; err != nil {
		c.Error(err)
	}
}

// write is for files that only the kernel reads.
func write(path, text string) error { return os.WriteFile(path, []byte(text), 0o644) }
