package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"strings"
)

// statement leaves one out, or what it assigns, or the error that it returns.
func (k *maker) statement(s ast.Stmt) {
	switch s := s.(type) {
	case *ast.ExprStmt, *ast.DeferStmt, *ast.GoStmt, *ast.SendStmt, *ast.IncDecStmt:
		if call, ok := s.(*ast.ExprStmt); ok && isPanic(call) {
			return // a function may have to end with it
		}
		k.leaveOut(s)
	case *ast.BranchStmt:
		if s.Label == nil && (s.Tok == token.CONTINUE || s.Tok == token.BREAK) {
			k.leaveOut(s)
		}
	case *ast.ReturnStmt:
		if len(s.Results) == 0 {
			k.leaveOut(s)
		} else {
			k.dropError(s)
		}
	case *ast.AssignStmt:
		k.assignment(s)
	}
}

func isPanic(s *ast.ExprStmt) bool {
	call, ok := s.X.(*ast.CallExpr)
	if !ok {
		return false
	}
	id, ok := call.Fun.(*ast.Ident)
	return ok && id.Name == "panic"
}

func (k *maker) leaveOut(s ast.Stmt) {
	k.add(s, "left out: "+k.flat(s), "if !(\x00) { ", " }")
}

// assignment keeps what is evaluated, and does not assign it.
func (k *maker) assignment(s *ast.AssignStmt) {
	if s.Tok == token.DEFINE {
		return
	}
	blank := true
	for i, left := range s.Lhs {
		if id, ok := left.(*ast.Ident); ok && id.Name == "_" {
			continue
		}
		blank = false
		what := fmt.Sprintf("not assigned: %s in %s", k.flat(left), k.flat(s))
		k.add(s, what, "if \x00 { "+k.without(s, i)+" } else { ", " }")
	}
	if blank {
		k.leaveOut(s)
	}
}

// without is the assignment without its ith part.
func (k *maker) without(s *ast.AssignStmt, i int) string {
	var left, right []string
	for j := range s.Lhs {
		name := k.text(s.Lhs[j])
		if j == i {
			name = "_"
		}
		if len(s.Lhs) != len(s.Rhs) {
			left = append(left, name)
			continue
		}
		if j == i && !hasCall(s.Rhs[j]) {
			continue
		}
		left, right = append(left, name), append(right, k.text(s.Rhs[j]))
	}
	if len(s.Lhs) != len(s.Rhs) {
		right = []string{k.text(s.Rhs[0])}
	}
	if len(left) == 0 {
		return ""
	}
	operator := s.Tok.String()
	if s.Tok != token.ASSIGN {
		operator = "="
	}
	return strings.Join(left, ", ") + " " + operator + " " + strings.Join(right, ", ")
}

// dropError returns nil for an error. Where returning it is all that an if does, its condition's mutants do the same.
func (k *maker) dropError(s *ast.ReturnStmt) {
	if block, ok := k.parent(0).(*ast.BlockStmt); ok && len(block.List) == 1 {
		if f, ok := k.parent(1).(*ast.IfStmt); ok && f.Body == block && f.Else == nil {
			return
		}
	}
	last := s.Results[len(s.Results)-1]
	results := len(s.Results)
	if tuple, ok := k.p.TypesInfo.TypeOf(last).(*types.Tuple); ok {
		results = tuple.Len()
	}
	signature := k.signature()
	if signature == nil || signature.Results().Len() != results || k.p.TypesInfo.Types[last].IsNil() {
		return
	}
	if signature.Results().At(results-1).Type().String() != "error" {
		return
	}
	what := "error dropped: " + k.flat(s)
	if len(s.Results) == results {
		values := make([]string, results)
		for i, r := range s.Results[:results-1] {
			values[i] = k.text(r)
		}
		values[results-1] = "nil"
		call := ""
		if hasCall(last) {
			call = "_ = " + k.text(last) + "; "
		}
		k.add(s, what, "if \x00 { "+call+"return "+strings.Join(values, ", ")+" }; ", "")
		return
	}
	names := make([]string, results)
	for i := range names {
		names[i] = fmt.Sprintf("r%d", i)
	}
	names[results-1] = "_"
	taken := strings.Join(names, ", ")
	names[results-1] = "nil"
	k.add(s, what, fmt.Sprintf("if \x00 { %s := %s; return %s }; ", taken, k.text(last), strings.Join(names, ", ")), "")
}

// signature of the function that the node is in.
func (k *maker) signature() *types.Signature {
	for up := 0; ; up++ {
		switch f := k.parent(up).(type) {
		case *ast.FuncLit:
			s, _ := k.p.TypesInfo.TypeOf(f).(*types.Signature)
			return s
		case *ast.FuncDecl:
			return k.p.TypesInfo.Defs[f.Name].Type().(*types.Signature)
		case nil:
			return nil
		}
	}
}

// cases of a switch over a value are left out one by one: what they did is left to the default.
func (k *maker) cases(s *ast.SwitchStmt) {
	if s.Tag == nil {
		return
	}
	for _, clause := range s.Body.List {
		clause := clause.(*ast.CaseClause)
		for _, value := range clause.List {
			t := typeName(k.p.TypesInfo.TypeOf(value), k.p.Types, k.src.tree)
			if t == "" {
				continue
			}
			first := ""
			if len(clause.Body) > 0 {
				first = " with " + k.flat(clause.Body[0])
			}
			k.add(value, "case left out: "+k.flat(value)+first, fmt.Sprintf("mutantCase[%s](\x00, ", t), ")")
		}
	}
}
