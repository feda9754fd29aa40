package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// example is a module with a package p.
func example(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	files["go.mod"] = "module example\n\ngo 1.26\n"
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const source1 = `package p

import (
	"errors"
	"time"
)

const most = 3 * time.Second

type point struct{ X, Y int }

type list struct{ all []int }

func (l *list) add(n int) {
	if n > 0 && n < 10 {
		l.all = append(l.all, n)
		return
	}
	l.all = nil
}

func swap(p point) (point, error) {
	switch p.X {
	case 1, 2:
		return point{X: p.Y, Y: p.X}, nil
	}
	defer println("x")
	err := errors.New("x")
	println(most)
	return p, err
}

func idle() bool { return false }
`

const test1 = `package p

import "testing"

func TestAdd(t *testing.T) {
	l := &list{}
	l.add(5)
	l.add(5)
	if len(l.all) != 2 {
		t.Fatal("it adds")
	}
	l.add(0)
	if len(l.all) != 0 {
		t.Fatal("it does not empty")
	}
}
`

// TestMutantsOfAnExample: what is changed, under which keys.
func TestMutantsOfAnExample(t *testing.T) {
	root := example(t, map[string]string{"p/p.go": source1})
	all, _, err := load(root, choice{target{"p", 90}, ""})
	if err != nil {
		t.Fatal(err)
	}
	keys := make([]string, len(all))
	for i, m := range all {
		keys[i] = m.key()
	}
	for _, want := range []string{
		"const most: other number: 3 in 3 * time.Second",
		"(*list).add: always true: n > 0 && n < 10",
		"(*list).add: always false: n > 0 && n < 10",
		"(*list).add: ignored: n > 0 in n > 0 && n < 10",
		"(*list).add: boundary: n < 10",
		"(*list).add: other number: 10 in n < 10",
		"(*list).add: not assigned: l.all in l.all = append(l.all, n)",
		"(*list).add: left out: return",
		"(*list).add: not assigned: l.all in l.all = nil",
		"swap: case left out: 2 with return point{X: p.Y, Y: p.X}, nil",
		"swap: not set: Y: p.X in point",
		`swap: left out: defer println("x")`,
		"swap: error dropped: return p, err",
		"idle: negated: false in return false",
	} {
		if !slices.Contains(keys, want) {
			t.Errorf("there is no %q in\n%s", want, strings.Join(keys, "\n"))
		}
	}
	// A line more moves no key.
	moved, _, err := load(example(t, map[string]string{"p/p.go": strings.Replace(source1, "func swap", "// More.\nfunc swap", 1)}), choice{target{"p", 90}, ""})
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range moved {
		if m.key() != keys[i] {
			t.Errorf("%q is %q when lines have moved", keys[i], m.key())
		}
	}
}

// TestVerdicts: a mutant that a test fails on is killed, and the others survive.
func TestVerdicts(t *testing.T) {
	root := example(t, map[string]string{"p/p.go": source1, "p/p_test.go": test1})
	result, err := examine(t.Context(), root, choice{target{"p", 90}, ""}, nil, options{match: "add|const|swap"})
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]state{}
	for _, m := range result.all {
		states[m.key()] = m.state
	}
	for key, want := range map[string]state{
		"(*list).add: always true: n > 0 && n < 10":                    killed,
		"(*list).add: always false: n > 0 && n < 10":                   killed,
		"(*list).add: boundary: n > 0":                                 killed,
		"(*list).add: not assigned: l.all in l.all = nil":              killed,
		"(*list).add: left out: return":                                killed,
		"(*list).add: boundary: n < 10":                                survived,
		"const most: other number: 3 in 3 * time.Second":               survived,
		"swap: error dropped: return p, err":                           survived,
		"(*list).add: not assigned: l.all in l.all = append(l.all, n)": killed,
	} {
		if got, ok := states[key]; !ok || got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
	var out bytes.Buffer
	if result.print(&out, time.Second) {
		t.Error("survivors that are not explained are no failure")
	}
	if !strings.Contains(out.String(), "p.go:15 (not explained)\n(*list).add: boundary: n < 10\n") {
		t.Errorf("printed\n%s", out.String())
	}
}

// TestReport: what fails, and how it is counted.
func TestReport(t *testing.T) {
	file := &source{path: "p.go", text: []byte("package p\n")}
	made := func(what string, state state) *mutant {
		return &mutant{function: "f", what: what, file: file, state: state}
	}
	dead, lives, tested := made("a", killed), made("b", survived), made("c", survived)
	same := &explanation{why: equivalent, text: "it is the same"}
	for name, test := range map[string]struct {
		all       []*mutant
		explained map[string]*explanation
		good      bool
		printed   string
	}{
		"all are killed":        {[]*mutant{dead}, nil, true, "1 mutants, unit tests kill 1 (100.0 %)"},
		"one is not explained":  {[]*mutant{dead, lives}, nil, false, "1 are not explained"},
		"one is equivalent":     {[]*mutant{dead, lives}, map[string]*explanation{"f: b": same}, true, "Killed or equivalent: 100.0 %"},
		"one is open":           {[]*mutant{lives}, map[string]*explanation{"f: b": {why: open}}, false, "The aim is missed"},
		"integration kills one": {[]*mutant{tested}, map[string]*explanation{"f: c": {why: integration}}, true, "integration tests kill 1"},
		"one died":              {[]*mutant{dead}, map[string]*explanation{"f: a": same}, false, "unit tests kill it by now: f: a"},
		"one has gone":          {[]*mutant{dead}, map[string]*explanation{"f: z": same}, false, "there is no such change any more: f: z"},
	} {
		var out bytes.Buffer
		r := &report{choice: choice{target{"p", 90}, ""}, all: test.all, explained: test.explained}
		if got := r.print(&out, time.Second); got != test.good || !strings.Contains(out.String(), test.printed) {
			t.Errorf("%s: %t\n%s", name, got, out.String())
		}
	}
}

// TestExplanations: what the file of survivors may say.
func TestExplanations(t *testing.T) {
	for text, want := range map[string]string{
		"package p\n\nf: a\nf: b\n\tequivalent: for a\n\treason\n\nf: c\n\tintegration TestX: because\n": "",
		"f: a\n\tequivalent: x\n":                                   "before the first line that names a package",
		"package p\nf: a\n":                                         "has no explanation",
		"package p\nf: a\n\tmaybe: x\n":                             "begins with",
		"package p\n\tequivalent: x\n":                              "below no mutant",
		"package p\nf: a\n\tintegration: x\n":                       "has to be named",
		"package p\nf: a\n\topen TestX: x\n":                        "has to be named",
		"package p\nf: a\n\tequivalent: x\nf: a\n\tequivalent: x\n": "twice",
		"package p\nf: a\n\tintegration TestY: x\n":                 "no integration test TestY",
	} {
		root := example(t, map[string]string{"survivors.txt": text, "integration/x_test.go": "package x\n\nfunc TestX(t *testing.T) {}\n"})
		all, err := readExplanations(filepath.Join(root, "survivors.txt"), root)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", text, err, want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := all["p"]["f: b"]; got == nil || got.why != equivalent || got.text != "for a reason" || all["p"]["f: c"].why != integration {
			t.Errorf("%q: got %+v", text, all["p"])
		}
	}
}

func TestChoose(t *testing.T) {
	chosen, err := choose([]string{"./shim/create.go", "oci"})
	if err != nil || len(chosen) != 2 || chosen[0].dir != "shim" || chosen[0].file != "create.go" || chosen[1].dir != "oci" || chosen[1].file != "" {
		t.Errorf("got %+v, %v", chosen, err)
	}
	if all, err := choose(nil); err != nil || len(all) != len(targets) {
		t.Errorf("got %+v, %v", all, err)
	}
	if _, err := choose([]string{"proto"}); err == nil || !strings.Contains(err.Error(), "targets") {
		t.Errorf("got %v", err)
	}
}
