package installer

import (
	"slices"
	"testing"
)

// everyView calls visit with every combination of what can be known.
func everyView(visit func(View)) {
	ready := []string{"", ReadyTrue, ReadyFalse, "something else"}
	const bits = 18
	for _, label := range ready {
		for n := range 1 << bits {
			bit := func(i int) bool { return n>>i&1 == 1 }
			v := View{
				Uninstall: bit(0), Turn: bit(1), Failed: bit(2), Early: bit(3), Blocked: bit(4), ByHand: bit(5), Pods: bit(6),
				Node:    NodeView{Ready: label, Installed: bit(7), Checked: bit(7) && bit(8), Error: bit(9), Tainted: bit(10)},
				Status:  Status{Installed: bit(11), Current: bit(11) && bit(12)},
				Attempt: Attempt{Begun: bit(13), RestartNeeded: bit(14), Installed: bit(15), Checked: bit(16), Settled: bit(17)},
			}
			visit(v)
			v.Attempt.Uninstalled = true
			visit(v)
		}
	}
}

// TestEveryView holds the promises of the package in every state, reachable or not.
func TestEveryView(t *testing.T) {
	views := 0
	seen := map[Step]int{}
	everyView(func(v View) {
		step := Next(v)
		views++
		seen[step]++
		bad := ""
		switch step {
		case Install, Uninstall:
			if !v.Turn || v.Node.Ready == ReadyTrue || v.Pods && v.Uninstall {
				bad = "a risk without a turn, with the label or with pods"
			}
		case Refresh:
			if !v.Turn || !v.Node.Installed || v.Node.Checked {
				bad = "programs are replaced without a turn, or the Node says that they are checked"
			}
		case Label:
			if !v.Turn || !v.Attempt.Installed || !v.Attempt.Checked || v.Uninstall {
				bad = "a label without a check"
			}
		case Rest:
			if !v.Status.Current || v.Node.Ready != ReadyTrue || !v.Node.Checked || v.Node.Error || v.Node.Tainted {
				bad = "rests on a node that needs something"
			}
		case Clear:
			if v.Node.Ready == ReadyTrue || (v.Status.Installed && !v.Attempt.Uninstalled) || !v.Uninstall || !v.Turn {
				bad = "forgets an installation"
			}
		case Done:
			if v.Node.Installed || v.Node.Ready != "" || v.Node.Error || v.Status.Installed {
				bad = "something is left"
			}
		}
		if v.Failed && step != Record {
			bad = "a failure is not recorded first"
		}
		if v.Uninstall && (step == Install || step == Refresh || step == Begin || step == Note || step == Label) {
			bad = "installs against the mark"
		}
		if v.Blocked && !v.Attempt.Begun && v.Node.Ready != ReadyFalse && !v.Uninstall && (step == Install || step == Refresh || step == Begin) {
			bad = "begins although others have failed"
		}
		if bad != "" {
			t.Fatalf("%s: %v for %+v", bad, step, v)
		}
	})
	if len(seen) != len(stepNames) {
		t.Errorf("%d of %d steps are ever decided: %v", len(seen), len(stepNames), seen)
	}
	t.Logf("%d views, %v", views, seen)
}

// world is a node and what the installer does to it, without faults and with them.
type world struct {
	t     *testing.T
	v     View
	needs bool // containerd has to be restarted after an installation
	trace []Step
}

// do carries a step out, as Installer does.
func (w *world) do(step Step) {
	w.t.Helper()
	v := &w.v
	w.trace = append(w.trace, step)
	switch step {
	case TakeTurn:
		v.Turn, v.Attempt = true, Attempt{Settled: v.Attempt.Settled}
	case Note:
		v.Node.Installed, v.Node.Checked, v.Attempt.Begun = true, false, true
	case Begin:
		v.Node, v.Attempt.Begun = NodeView{Installed: true, Error: v.Node.Error, Tainted: v.Node.Tainted}, true
	case Refresh:
		v.Status.Installed, v.Attempt.Installed, v.Attempt.RestartNeeded = true, !w.needs, w.needs
		v.Status.Current = !w.needs
	case Install:
		v.Status.Installed = true
		v.Attempt.Installed, v.Attempt.RestartNeeded = !w.needs || !v.ByHand, w.needs && v.ByHand
		v.Status.Current = v.Attempt.Installed
		if v.Attempt.Installed {
			w.needs = false
		}
	case AwaitRestart:
		v.Turn, w.needs, v.Status.Current = false, false, true
	case Check:
		v.Attempt.Checked = true
	case Label:
		v.Node = NodeView{Ready: ReadyTrue, Installed: true, Checked: true}
	case Unlabel:
		v.Node.Ready, v.Attempt.Settled = "", false
	case AwaitPods:
		v.Pods = false
	case Settle:
		v.Attempt.Settled = true
	case Uninstall:
		v.Status, v.Attempt.Uninstalled = Status{}, true
	case Clear:
		v.Node = NodeView{Tainted: v.Node.Tainted}
	case Record:
		v.Failed, v.Turn = false, false
		v.Node.Error, v.Node.Ready = true, ReadyFalse
		if v.Uninstall {
			v.Node.Ready = ""
		}
	default:
		w.t.Fatalf("unexpected step %v after %v for %+v", step, w.trace, *v)
	}
}

// run until the step, and returns the trace.
func (w *world) run(until Step) []Step {
	w.t.Helper()
	for range 30 {
		step := Next(w.v)
		if step == until {
			return w.trace
		}
		w.do(step)
	}
	w.t.Fatalf("no end: %v, at %+v", w.trace, w.v)
	return nil
}

func TestSequences(t *testing.T) {
	ready := NodeView{Ready: ReadyTrue, Installed: true, Checked: true}
	for name, test := range map[string]struct {
		world world
		until Step
		want  []Step
	}{
		"new node": {world{v: View{Node: NodeView{Tainted: true}}, needs: true}, Rest, []Step{TakeTurn, Begin, Install, Check, Label}},
		"upgrade":  {world{v: View{Node: ready, Status: Status{Installed: true}}}, Rest, []Step{TakeTurn, Note, Refresh, Check, Label}},
		"upgrade with restart": {
			world{v: View{Node: ready, Status: Status{Installed: true}}, needs: true},
			Rest,
			[]Step{TakeTurn, Note, Refresh, Begin, Install, Check, Label},
		},
		"restart by hand": {
			world{v: View{ByHand: true}, needs: true},
			Rest,
			[]Step{TakeTurn, Begin, Install, AwaitRestart, TakeTurn, Install, Check, Label},
		},
		"upgrade with restart by hand": {
			world{v: View{ByHand: true, Node: ready, Status: Status{Installed: true}}, needs: true},
			Rest,
			[]Step{TakeTurn, Note, Refresh, Begin, AwaitRestart, TakeTurn, Install, Check, Label},
		},
		"killed before the check of an upgrade": {
			world{v: View{Node: NodeView{Ready: ReadyTrue, Installed: true}, Status: Status{Installed: true, Current: true}}},
			Rest,
			[]Step{TakeTurn, Refresh, Check, Label},
		},
		"label taken by others": {
			world{v: View{Node: NodeView{Installed: true, Checked: true}, Status: Status{Installed: true, Current: true}}},
			Rest,
			[]Step{TakeTurn, Begin, Install, Check, Label},
		},
		"taint came back": {
			world{v: View{Node: NodeView{Ready: ReadyTrue, Installed: true, Checked: true, Tainted: true}, Status: Status{Installed: true, Current: true}}},
			Rest,
			[]Step{TakeTurn, Note, Refresh, Check, Label},
		},
		"failed before": {
			world{v: View{Blocked: true, Node: NodeView{Ready: ReadyFalse, Installed: true, Error: true}}},
			Rest,
			[]Step{TakeTurn, Install, Check, Label},
		},
		"fails now":          {world{v: View{Turn: true, Failed: true, Node: NodeView{Installed: true}}}, TakeTurn, []Step{Record}},
		"others have failed": {world{v: View{Blocked: true, Turn: true}}, Stop, nil},
		"uninstall": {
			world{v: View{Uninstall: true, Pods: true, Node: ready, Status: Status{Installed: true, Current: true}}},
			Done,
			[]Step{Unlabel, AwaitPods, Settle, TakeTurn, Uninstall, Clear},
		},
		"uninstall fails": {
			world{v: View{Uninstall: true, Turn: true, Failed: true, Node: NodeView{Installed: true}, Attempt: Attempt{Settled: true}, Status: Status{Installed: true}}},
			Done,
			[]Step{Record, TakeTurn, Uninstall, Clear},
		},
		"uninstall of a node that has nothing": {world{v: View{Uninstall: true}}, Done, nil},
		"uninstall of a node that only failed": {
			world{v: View{Uninstall: true, Node: NodeView{Ready: ReadyFalse, Error: true}}}, Done, []Step{Unlabel, TakeTurn, Clear},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := test.world
			w.t = t
			got := w.run(test.until)
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
