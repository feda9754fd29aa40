package main

import (
	"cmp"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"
)

// report has the results of a package's mutants.
type report struct {
	choice
	part      bool // not all mutants of the package were made
	all       []*mutant
	explained map[string]*explanation
}

// counts of mutants.
type counts struct{ made, killed, equivalent, integration, open, unexplained, notCompiled int }

func (r *report) count() counts {
	var c counts
	for _, m := range r.all {
		switch e := r.explained[m.key()]; {
		case m.state == notCompiled:
			c.notCompiled++
			continue
		case m.state == killed:
			c.killed++
		case e == nil:
			c.unexplained++
		case e.why == equivalent:
			c.equivalent++
		case e.why == integration:
			c.integration++
		default:
			c.open++
		}
		c.made++
	}
	return c
}

// print writes the rate, the survivors and what is wrong with the file of explanations. It returns false if anything is wrong.
func (r *report) print(out io.Writer, took time.Duration) bool {
	c := r.count()
	percent := func(n int) float64 { return 100 * float64(n) / float64(max(c.made, 1)) }
	held := percent(c.killed + c.integration + c.equivalent)
	fmt.Fprintf(out, "%s: %d mutants, unit tests kill %d (%.1f %%).\n", filepath.Join(r.dir, r.file), c.made, c.killed, percent(c.killed))
	fmt.Fprintf(out, "  Of the %d survivors, %d are equivalent, integration tests kill %d, %d are known to be open, %d are not explained.\n",
		c.made-c.killed, c.equivalent, c.integration, c.open, c.unexplained)
	fmt.Fprintf(out, "  Killed or equivalent: %.1f %%; the aim is %.0f %%. %d changes do not compile. It took %s.\n", held, r.aim, c.notCompiled, took.Round(time.Second))
	good := c.unexplained == 0
	if held < r.aim && !r.part {
		fmt.Fprintf(out, "  The aim is missed.\n")
		good = false
	}
	r.printSurvivors(out)
	return r.printStale(out) && good
}

func (r *report) printSurvivors(out io.Writer) {
	for _, m := range r.all {
		if m.state != survived {
			continue
		}
		text := "not explained"
		if e := r.explained[m.key()]; e != nil {
			text = [...]string{"equivalent", "killed by an integration test", "open"}[e.why]
		} else if len(m.reached) == 0 {
			text += ", no test comes here"
		}
		fmt.Fprintf(out, "  %s:%d (%s)\n%s\n", filepath.Base(m.file.path), m.line(), text, m.key())
	}
}

// printStale lists the explanations that explain nothing any more.
func (r *report) printStale(out io.Writer) bool {
	byKey := map[string]*mutant{}
	for _, m := range r.all {
		byKey[m.key()] = m
	}
	keys := make([]string, 0, len(r.explained))
	for key := range r.explained {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Compare(r.explained[a].line, r.explained[b].line) })
	good := true
	for _, key := range keys {
		m := byKey[key]
		text := ""
		switch {
		case m == nil && !r.part:
			text = "there is no such change any more"
		case m != nil && m.state == killed:
			text = "unit tests kill it by now"
		case m != nil && m.state == notCompiled:
			text = "it does not compile"
		default:
			continue
		}
		good = false
		fmt.Fprintf(out, "  %s:%d: remove this explanation, %s: %s\n", survivorsFile, r.explained[key].line, text, key)
	}
	return good
}
