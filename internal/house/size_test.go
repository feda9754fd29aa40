package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"strings"
	"testing"
)

// Limits of the product's code. A reader holds a function on one screen, and a file in mind.
const (
	mostFileLines     = 400
	mostFunctionLines = 50
	mostShimFiles     = 12 // of package shim itself; its parts are packages below it
)

// product reports whether a file is code of the product: not a test, not generated, not a tool.
func product(file string) bool {
	top, _, _ := strings.Cut(file, "/")
	return strings.HasSuffix(file, ".go") && !strings.HasSuffix(file, "_test.go") && !strings.HasSuffix(file, ".pb.go") &&
		top != "integration" && top != "tools"
}

// TestSizes checks files and functions of the product.
func TestSizes(t *testing.T) {
	inShim := 0
	for _, file := range files(t, product) {
		text := read(t, file)
		if lines := strings.Count(text, "\n"); lines > mostFileLines {
			t.Errorf("%s has %d lines, at most %d are allowed", file, lines, mostFileLines)
		}
		if path.Dir(file) == "shim" {
			inShim++
		}
		checkFunctions(t, file, text)
	}
	if inShim > mostShimFiles {
		t.Errorf("package shim has %d files of its own, at most %d are allowed", inShim, mostShimFiles)
	}
}

func checkFunctions(t *testing.T, file, text string) {
	t.Helper()
	set := token.NewFileSet()
	parsed, err := parser.ParseFile(set, file, text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, declaration := range parsed.Decls {
		if function, ok := declaration.(*ast.FuncDecl); ok {
			if lines := set.Position(function.End()).Line - set.Position(function.Pos()).Line + 1; lines > mostFunctionLines {
				t.Errorf("%s: %s has %d lines, at most %d are allowed", file, function.Name.Name, lines, mostFunctionLines)
			}
		}
	}
}
