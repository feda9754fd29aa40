package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"path/filepath"
	"strings"

	"golang.org/x/tools/go/packages"
)

// mutant is one change.
type mutant struct {
	id int
	// function that is changed, and what is changed in it. The two together find it again when lines have moved.
	function, what string
	file           *source
	start, end     int // of the changed text, in bytes
	// before and after are put around the changed text where the mutant is compiled with the others. They turn the change on if
	// its number is on. Both are empty where this cannot be done: in a constant.
	before, after string
	// plain is the changed text of a mutant that is compiled by itself.
	plain string

	state   state
	reached []string // the tests that execute it
}

// state is the result of a mutant.
type state int

const (
	survived state = iota
	killed
	notCompiled
)

func (s state) String() string { return [...]string{"survived", "killed", "did not compile"}[s] }

func (m *mutant) key() string { return m.function + ": " + m.what }

func (m *mutant) line() int { return 1 + strings.Count(string(m.file.text[:m.start]), "\n") }

// source is one file of the package.
type source struct {
	path string
	text []byte
	tree *ast.File
}

// load reads and type-checks the package.
func load(root string, c choice) ([]*mutant, *packages.Package, error) {
	config := &packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports | packages.NeedTypes |
			packages.NeedSyntax | packages.NeedTypesInfo | packages.NeedExportFile,
		Dir: root, BuildFlags: []string{"-tags=" + buildTags},
	}
	loaded, err := packages.Load(config, "./"+c.dir)
	if err != nil {
		return nil, nil, err
	}
	if len(loaded) != 1 || len(loaded[0].Errors) > 0 {
		return nil, nil, fmt.Errorf("cannot read the package: %v", loaded[0].Errors)
	}
	p := loaded[0]
	var all []*mutant
	for i, tree := range p.Syntax {
		name := p.CompiledGoFiles[i]
		if c.file != "" && filepath.Base(name) != c.file || !strings.HasPrefix(name, root) {
			continue
		}
		found, err := mutantsOf(p, tree, name)
		if err != nil {
			return nil, nil, err
		}
		all = append(all, found...)
	}
	number(all)
	return all, p, nil
}

// number gives each mutant its number, and makes equal keys different.
func number(all []*mutant) {
	seen := map[string]int{}
	for i, m := range all {
		m.id = i + 1
		seen[m.key()]++
		if n := seen[m.key()]; n > 1 {
			m.what += fmt.Sprintf(" #%d", n)
		}
	}
}

// typeName of t as it is written in the file, empty if it cannot be.
func typeName(t types.Type, p *types.Package, tree *ast.File) string {
	known := true
	name := types.TypeString(t, func(other *types.Package) string {
		if other == p {
			return ""
		}
		for _, spec := range tree.Imports {
			if strings.Trim(spec.Path.Value, `"`) != other.Path() {
				continue
			}
			if spec.Name != nil {
				return spec.Name.Name
			}
			return other.Name()
		}
		known = false
		return other.Name()
	})
	if !known || strings.Contains(name, "untyped") {
		return ""
	}
	return name
}

// functionName as go doc writes it.
func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return d.Name.Name
	}
	return fmt.Sprintf("(%s).%s", types.ExprString(d.Recv.List[0].Type), d.Name.Name)
}

// isLog reports whether a call only writes to the log, which is for people: what it says is not held by tests.
func isLog(call *ast.CallExpr) bool {
	root := ast.Expr(call)
	for {
		switch e := root.(type) {
		case *ast.CallExpr:
			root = e.Fun
		case *ast.SelectorExpr:
			root = e.X
		case *ast.Ident:
			return e.Name == "log" || e.Name == "logger"
		default:
			return false
		}
	}
}

// isLock reports whether a call takes or gives back a mutex: the race detector is the judge of that.
func isLock(call *ast.CallExpr) bool {
	s, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (s.Sel.Name == "Lock" || s.Sel.Name == "Unlock" || s.Sel.Name == "RLock" || s.Sel.Name == "RUnlock")
}

// hasCall reports whether evaluating e may do something.
func hasCall(e ast.Expr) bool {
	found := false
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			found = true
		case *ast.UnaryExpr:
			found = found || n.Op == token.ARROW
		}
		return !found
	})
	return found
}
