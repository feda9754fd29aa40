package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
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
		if err := check(pkg, testsOf(t, filepath.Join("../..", pkg))); err != nil {
			t.Error(err)
		}
		if err := check(pkg, ""); (err == nil) != (len(excluded[pkg]) == 0) {
			t.Errorf("%s without any test: %v", pkg, err)
		}
	}
	for _, target := range targets {
		if target.why == "" {
			t.Errorf("%s is left out, and nobody says why", target.name)
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
