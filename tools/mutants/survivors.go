package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// explanation says why mutants survive.
type explanation struct {
	why  why
	text string
	line int // of the key, in the file
}

// why a mutant survives.
type why int

const (
	equivalent  why = iota // it does nothing else than the program
	integration            // an integration test kills it, and no unit test can
	open                   // nothing kills it
)

var whyNames = map[string]why{"equivalent": equivalent, "integration": integration, "open": open}

// readExplanations reads a file of lines like
//
//	package shim/lifecycle
//
//	FUNCTION: WHAT IS CHANGED
//	FUNCTION: WHAT IS CHANGED
//		equivalent: why those above do nothing else than the program
//
// and returns them by package and key. An integration test is named: "integration TestName: why no unit test can".
func readExplanations(path, root string) (map[string]map[string]*explanation, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := &reader{all: map[string]map[string]*explanation{}, root: root}
	scanner := bufio.NewScanner(f)
	for n := 1; scanner.Scan(); n++ {
		if err := r.take(scanner.Text(), n); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, err
	}
	if len(r.keys) > 0 && r.current == nil {
		return nil, fmt.Errorf("%s: the last mutant has no explanation", path)
	}
	return r.all, nil
}

// reader of the file of explanations.
type reader struct {
	root    string
	all     map[string]map[string]*explanation
	keys    map[string]*explanation // of the package
	current *explanation            // nil until its text has begun
	waiting []*explanation          // keys whose text is still to come
	tests   map[string]bool         // the integration tests that there are
}

var explanationStart = regexp.MustCompile(`^(equivalent|integration|open)(?: (Test\w+))?: (.+)$`)

func (r *reader) take(line string, n int) error {
	text := strings.TrimSpace(line)
	switch {
	case text == "" || strings.HasPrefix(line, "#"):
		return nil
	case strings.HasPrefix(line, "package "):
		r.keys = map[string]*explanation{}
		r.all[strings.TrimPrefix(line, "package ")] = r.keys
		r.current = nil
		return nil
	case text != line: // indented
		return r.explain(text)
	case r.keys == nil:
		return errors.New("a mutant stands before the first line that names a package")
	case r.keys[line] != nil:
		return errors.New("the mutant is explained twice")
	}
	if r.current != nil {
		r.current, r.waiting = nil, nil
	}
	e := &explanation{line: n}
	r.keys[line] = e
	r.waiting = append(r.waiting, e)
	return nil
}

func (r *reader) explain(text string) error {
	if r.current != nil { // it continues
		for _, e := range r.waiting {
			e.text += " " + text
		}
		return nil
	}
	if len(r.waiting) == 0 {
		return errors.New("an explanation stands below no mutant")
	}
	match := explanationStart.FindStringSubmatch(text)
	if match == nil {
		return errors.New(`an explanation begins with "equivalent: ", "integration TestName: " or "open: "`)
	}
	if (match[1] == "integration") != (match[2] != "") {
		return errors.New("an integration test has to be named, and only there")
	}
	if match[2] != "" && !r.exists(match[2]) {
		return fmt.Errorf("there is no integration test %s", match[2])
	}
	for _, e := range r.waiting {
		e.why, e.text = whyNames[match[1]], strings.TrimSpace(match[2]+" "+match[3])
	}
	r.current = r.waiting[0]
	return nil
}

var testFunction = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// exists reports whether there is an integration test of this name.
func (r *reader) exists(name string) bool {
	if r.tests == nil {
		r.tests = map[string]bool{}
		_ = filepath.WalkDir(filepath.Join(r.root, "integration"), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, match := range testFunction.FindAllSubmatch(text, -1) {
				r.tests[string(match[1])] = true
			}
			return nil
		})
	}
	return r.tests[name]
}
