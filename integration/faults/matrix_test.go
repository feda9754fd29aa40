package faults

import (
	"flag"
	"slices"
	"testing"
)

var whole = flag.Bool("whole", false, "run every cell and every pair, not a part of them")

// parts is how many parts the cells and pairs are divided into. `make test` runs one of them, always the same, `make faults` runs
// all.
const parts = 8

// isChosen reports whether the cell in this row and column is run. The part is every eighth diagonal, so that it has each row and
// each column.
func isChosen(row, column int) bool { return *whole || (row+column)%parts == 0 }

// TestPart: the part that `make test` runs has each fault and each phase.
func TestPart(t *testing.T) {
	for row, f := range faults {
		if !slices.ContainsFunc(phases, func(p *phase) bool { return isChosen(row, slices.Index(phases, p)) }) {
			t.Errorf("the part has no cell of the fault %q", f.name)
		}
	}
	for column, p := range phases {
		if !slices.ContainsFunc(faults, func(f *fault) bool { return isChosen(slices.Index(faults, f), column) }) {
			t.Errorf("the part has no cell of the phase %s", p.name)
		}
	}
}

// TestMatrix runs the cells with runc.
func TestMatrix(t *testing.T) {
	for row, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			for column, p := range phases {
				if isChosen(row, column) {
					t.Run(p.name, func(t *testing.T) {
						t.Parallel()
						meetFault(t, f, p, "runc")
					})
				}
			}
		})
	}
}

// TestMatrixOnCrun runs the cells with crun, except those of faults that need a daemon for the test alone, or a filesystem that
// crun's daemon does not see.
func TestMatrixOnCrun(t *testing.T) {
	for row, f := range faults {
		if f.own || f.mayLose { // crun has no threads: it finds room in a process table that is full for runc
			continue
		}
		t.Run("crun "+f.name, func(t *testing.T) {
			for column, p := range phases {
				if !p.stuck && isChosen(row, column+parts/2) { // other cells than runc's
					t.Run(p.name, func(t *testing.T) {
						t.Parallel()
						meetFault(t, f, p, "crun")
					})
				}
			}
		})
	}
}

// meetFault is one cell.
func meetFault(t *testing.T, f *fault, p *phase, runtime string) {
	t.Helper()
	var w *world
	var err error
	if f.own {
		if w, err = newWorld(runtime); err == nil {
			t.Cleanup(func() {
				if err := w.close(); err != nil {
					t.Error(err)
				}
			})
		}
	} else {
		w, err = sharedWorld(runtime)
	}
	if err != nil {
		t.Fatal(err)
	}
	c := newCell(t, w, p, runtime)
	c.holdsHost = f.holdsHost && (p.host == "start" || p.host == "prepare")
	if f.prepare != nil {
		f.prepare(c)
	}
	p.prepare(c)
	c.make()
	p.reach(c)
	c.wantPhase(p.isTold()...)
	e := f.endOf(p)
	if runtime == "crun" && f.name == "runtime fails" && p.name == "Starting, stop waits" {
		// As pid 1 crun's own process, other than runc's, is deaf to TERM, under the stock shim too.
		e.status, e.fails = 137, []string{"Kill"}
	}
	run := func() {
		f.inflict(c)
		c.finish(e)
	}
	if f.mayLose {
		c.forgive(run)
	} else {
		run()
	}
}
