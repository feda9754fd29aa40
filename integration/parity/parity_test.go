package parity

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// scenario is a client's program.
type scenario struct {
	name string
	// about says what is compared, for the document.
	about   string
	program func(*program)
	// only are the targets it makes sense for; none: all.
	only []string
	// ways of speaking to the shim; none: both.
	ways []way
}

// TestParity: docs/spec.md#no-handlers.
func TestParity(t *testing.T) {
	for _, pass := range passes {
		t.Run(pass.target.name+"/"+string(pass.way), func(t *testing.T) {
			w := on(t, pass.target)
			known := newUsed()
			t.Cleanup(func() { // when all scenarios have ended
				for _, stale := range known.stale(pass) {
					t.Errorf("a known difference is gone: %s", stale)
				}
			})
			for _, s := range scenarios {
				if !s.runsIn(pass) {
					continue
				}
				t.Run(s.name, func(t *testing.T) {
					t.Parallel()
					compare(t, w, pass, s, known)
				})
			}
		})
	}
}

// pass is all scenarios on one target.
type pass struct {
	target target
	way    way
	// sides that are compared with the stock shim.
	sides []side
}

var passes = []pass{
	{targets[0], byDaemon, []side{plain, handlers}},
	{targets[0], bySocket, []side{plain, handlers}},
	{targets[1], byDaemon, []side{plain}},
	{targets[2], byDaemon, []side{plain}},
	{targets[3], byDaemon, []side{plain}},
}

func (s scenario) runsIn(p pass) bool {
	return (len(s.only) == 0 || slices.Contains(s.only, p.target.name)) && (len(s.ways) == 0 || slices.Contains(s.ways, p.way))
}

func compare(t *testing.T, w *world, pass pass, s scenario, known *used) {
	want := report(t, w, pass.way, stock, s)
	for _, side := range pass.sides {
		got := report(t, w, pass.way, side, s)
		if unlike := known.unexplained(s.name, pass, side, diff(want, got)); len(unlike) > 0 {
			t.Errorf("%s is not as the stock shim:\n%s", side.name, strings.Join(unlike, "\n"))
			t.Logf("all of the stock shim's:\n%s", strings.Join(want, "\n"))
		}
	}
}

// tries of a scenario with a pod that the stock shim gets, until it has made one shim for it.
const tries = 10

// report runs the scenario against one side.
func report(t *testing.T, w *world, way way, side side, s scenario) []string {
	t.Helper()
	var lines []string
	t.Run(side.name, func(t *testing.T) {
		for try := range tries {
			p := newProgram(t, w, way, side, try)
			s.program(p)
			p.finish()
			if !p.twoShims {
				lines = p.report
				return
			}
			if side.name != stock.name {
				t.Fatal("a pod has two shims")
			}
		}
		t.Fatalf("%d tries to get a pod of one stock shim", tries)
	})
	if lines == nil {
		t.FailNow()
	}
	return lines
}

func newProgram(t *testing.T, w *world, way way, side side, try int) *program {
	place := w.sides[side.name]
	p := &program{T: t, world: w, place: place, side: side, way: way, api: daemonAPI{client: place.client}, dir: t.TempDir()}
	texts := []string{
		p.dir, "DIR", w.cgroupParent(side), "/CGROUP", w.daemon.Dir, "DAEMON", binDir(t), "BIN",
		side.runtime, "RUNTIME", place.client.Namespace, "NAMESPACE", "/" + side.name + "/", "/SIDE/", ownName, "OWN",
	}
	if try > 0 {
		p.again = fmt.Sprintf("-again%d", try)
		texts = append(texts, p.again, "")
	}
	p.names = newNames(texts...)
	return p
}
