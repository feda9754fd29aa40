package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What is left out exists, and says why: the same as the command checks before it boots, for all who change a test's name.
func TestExclusions(t *testing.T) {
	for pkg := range excluded {
		if !strings.Contains(strings.Join(packages, " ")+" ", pkg+" ") {
			t.Errorf("%s is no package that the machine runs", pkg)
		}
	}
	for _, pkg := range packages {
		if err := excludedExist(pkg, testsOf(t, filepath.Join("../..", pkg))); err != nil {
			t.Error(err)
		}
		if err := excludedExist(pkg, ""); (err == nil) != (len(excluded[pkg]) == 0) {
			t.Errorf("%s without any test: %v", pkg, err)
		}
	}
	for _, target := range targets {
		if target.why == "" {
			t.Errorf("%s is left out without a reason", target.name)
		}
	}
}

// Every package of tests is run, or left out for a reason; every test that is pointed at exists.
func TestPlanIsWhole(t *testing.T) {
	left := map[string]bool{}
	for _, pkg := range elsewhere {
		left[pkg.name] = false
		if pkg.why == "" {
			t.Errorf("%s is left out without a reason", pkg.name)
		}
	}
	err := filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		pkg := filepath.Dir(filepath.Join("integration", strings.TrimPrefix(path, "../")))
		if slices.Contains(packages, pkg) {
			return nil
		}
		for out := range left {
			if pkg == out || strings.HasPrefix(pkg, out+"/") {
				left[out] = true
				return nil
			}
		}
		t.Errorf("%s is neither run nor left out", pkg)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg, seen := range left {
		if !seen {
			t.Errorf("%s is left out and does not exist", pkg)
		}
	}
	var tests string
	for _, pkg := range packages {
		tests += testsOf(t, filepath.Join("../..", pkg)) + "\n"
	}
	for _, p := range points {
		for _, test := range p.tests {
			if !strings.Contains("\n"+tests, "\n"+test+"\n") {
				t.Errorf("there is no %s, which should show: %s", test, p.what)
			}
		}
	}
}

// testsOf a package, one a line, as -test.list has them.
func testsOf(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s has the tests %q, %v", dir, files, err)
	}
	var names []string
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range parsed.Decls {
			if function, ok := declaration.(*ast.FuncDecl); ok && function.Recv == nil && strings.HasPrefix(function.Name.Name, "Test") {
				names = append(names, function.Name.Name)
			}
		}
	}
	return strings.Join(names, "\n")
}
