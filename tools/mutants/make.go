package main

import (
	"go/ast"
	"go/token"
	"os"
	"strings"

	"golang.org/x/tools/go/packages"
)

// maker makes the mutants of one file.
type maker struct {
	p        *packages.Package
	src      *source
	function string
	constant bool       // in a const declaration
	stack    []ast.Node // from the file to the node that is looked at
	all      []*mutant
}

func mutantsOf(p *packages.Package, tree *ast.File, name string) ([]*mutant, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	k := &maker{p: p, src: &source{path: name, text: text, tree: tree}}
	for _, decl := range tree.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			k.function = functionName(d)
			k.walk(d)
		case *ast.GenDecl:
			k.constant = d.Tok == token.CONST
			for _, spec := range d.Specs {
				if v, ok := spec.(*ast.ValueSpec); ok {
					k.function = d.Tok.String() + " " + v.Names[0].Name
					k.walk(v)
				}
			}
			k.constant = false
		}
	}
	return k.all, nil
}

func (k *maker) walk(root ast.Node) {
	ast.Inspect(root, func(n ast.Node) bool {
		if n == nil {
			k.stack = k.stack[:len(k.stack)-1]
			return true
		}
		if !k.visit(n) {
			return false
		}
		k.stack = append(k.stack, n)
		return true
	})
}

// parent of the node that is looked at, so many steps up from 0.
func (k *maker) parent(up int) ast.Node {
	if i := len(k.stack) - 1 - up; i >= 0 {
		return k.stack[i]
	}
	return nil
}

// visit makes the mutants of one node, and reports whether those below it are to be visited.
func (k *maker) visit(n ast.Node) bool {
	if k.constant {
		if lit, ok := n.(*ast.BasicLit); ok {
			k.constantNumber(lit)
		}
		return true
	}
	switch n := n.(type) {
	case *ast.ExprStmt:
		if call, ok := n.X.(*ast.CallExpr); ok && (isLog(call) || isLock(call)) {
			return false
		}
	case *ast.DeferStmt:
		if isLock(n.Call) {
			return false
		}
	}
	if s, ok := n.(ast.Stmt); ok && k.inList(s) {
		k.statement(s)
	}
	k.conditionOf(n)
	if e, ok := n.(ast.Expr); ok && (!k.isConstant(e) || isTruth(e)) {
		k.expression(e)
	}
	switch n := n.(type) {
	case *ast.BasicLit:
		k.numberLiteral(n)
	case *ast.KeyValueExpr:
		k.field(n)
	case *ast.SwitchStmt:
		k.cases(n)
	}
	return true
}

// inList reports whether s is a statement of a block or of a case, where others may stand in its place.
func (k *maker) inList(s ast.Stmt) bool {
	switch p := k.parent(0).(type) {
	case *ast.BlockStmt:
		return true
	case *ast.CaseClause:
		return true
	case *ast.CommClause:
		return p.Comm != s
	}
	return false
}

func (k *maker) isConstant(e ast.Expr) bool {
	tv, ok := k.p.TypesInfo.Types[e]
	return ok && tv.Value != nil
}

// isTruth reports whether e is the word true or false.
func isTruth(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	return ok && (id.Name == "true" || id.Name == "false")
}

func (k *maker) offset(p token.Pos) int { return k.p.Fset.Position(p).Offset }

// text of a node as it stands in the file.
func (k *maker) text(n ast.Node) string {
	return string(k.src.text[k.offset(n.Pos()):k.offset(n.End())])
}

// flat is the text in one line of bounded length, for the key.
func (k *maker) flat(n ast.Node) string {
	const most = 110
	line := []rune(strings.Join(strings.Fields(k.text(n)), " "))
	if len(line) > most {
		line = append(line[:most], '…')
	}
	return string(line)
}

// add a mutant. In before and after, a zero byte stands for the condition that it is on.
func (k *maker) add(n ast.Node, what, before, after string) *mutant {
	m := &mutant{
		function: k.function, what: what, file: k.src, start: k.offset(n.Pos()), end: k.offset(n.End()),
		before: before, after: after,
	}
	k.all = append(k.all, m)
	return m
}
