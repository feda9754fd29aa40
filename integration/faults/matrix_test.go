package faults

import (
	"flag"
	"fmt"
	"hash/fnv"
	"os"
	"strconv"
	"testing"
	"time"
)

var whole = flag.Bool("whole", false, "run every cell and every pair, not a part of them")

// parts is into how many the cells and pairs are divided.
const parts = 8

// partVariable of the environment says which part is run: any whole number, of which the remainder counts. Without it the day
// says it, so that a few days have them all.
const partVariable = "LIFECYCLE_FAULTS_PART"

var part = mustPart(os.Getenv(partVariable))

// mustPart panics, as nothing that a test could do with a wrong number would be what was meant.
func mustPart(text string) int {
	if text == "" {
		return time.Now().YearDay()
	}
	number, err := strconv.Atoi(text)
	if err != nil || number < 0 {
		panic(fmt.Sprintf("%s=%s: allowed are whole numbers from 0", partVariable, text))
	}
	return number
}

// isChosen says whether it is run.
func isChosen(name string) bool { return *whole || isOf(name, part) }

func isOf(name string, part int) bool {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(name)) // never fails
	return int(sum.Sum32()%parts) == part%parts
}

// TestMatrix is every cell, or those of the part.
func TestMatrix(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			for _, p := range phases {
				if isChosen(f.name + " in " + p.name) {
					t.Run(p.name, func(t *testing.T) {
						t.Parallel()
						meetFault(t, f, p, "runc")
					})
				}
			}
		})
	}
}

// TestMatrixOnCrun is the faults of a runtime, of a handler host and of a shim with another runtime. Its daemon does not see the
// filesystem in which a process can be stuck.
func TestMatrixOnCrun(t *testing.T) {
	for _, f := range faults {
		if f.own || f.mayLose { // crun has no threads: it finds room in a process table that is full for runc
			continue
		}
		t.Run("crun "+f.name, func(t *testing.T) {
			for _, p := range phases {
				if !p.stuck && isChosen("crun, "+f.name+" in "+p.name) {
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
