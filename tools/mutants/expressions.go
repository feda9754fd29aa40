package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"strconv"
	"strings"
)

// conditionOf makes the condition of a statement always true, and always false. A loop is not made endless.
func (k *maker) conditionOf(n ast.Node) {
	var conditions []ast.Expr
	switch n := n.(type) {
	case *ast.IfStmt:
		conditions = []ast.Expr{n.Cond}
	case *ast.ForStmt:
		if n.Cond != nil {
			k.add(n.Cond, "always false: "+k.flat(n.Cond), "(", ") && !(\x00)")
		}
	case *ast.CaseClause:
		if s, ok := k.parent(1).(*ast.SwitchStmt); ok && s.Tag == nil {
			conditions = n.List
		}
	}
	for _, c := range conditions {
		k.add(c, "always true: "+k.flat(c), "((", ") || (\x00))")
		k.add(c, "always false: "+k.flat(c), "((", ") && !(\x00))")
	}
}

// expression changes what is computed.
func (k *maker) expression(e ast.Expr) {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		k.binary(e)
	case *ast.CallExpr:
		k.call(e)
	}
	if k.isBool(e) && k.isValue(e) {
		k.add(e, "negated: "+k.flat(e)+k.within(), "((\x00) != (", "))")
	}
}

func (k *maker) isBool(e ast.Expr) bool {
	t, ok := k.p.TypesInfo.TypeOf(e).(*types.Basic)
	return ok && t.Info()&types.IsBoolean != 0
}

// isValue reports whether e is a value that is returned, assigned or handed on: conditions and their parts have mutants of
// their own.
func (k *maker) isValue(e ast.Expr) bool {
	if id, ok := e.(*ast.Ident); ok && k.p.TypesInfo.Defs[id] != nil {
		return false
	}
	switch p := k.parent(0).(type) {
	case *ast.ReturnStmt:
		return true
	case *ast.AssignStmt:
		for _, right := range p.Rhs {
			if right == e {
				return len(p.Rhs) == len(p.Lhs)
			}
		}
	case *ast.ValueSpec:
		return p.Type != e
	case *ast.CallExpr:
		return p.Fun != e && !k.isConversion(p)
	}
	return false
}

func (k *maker) isConversion(c *ast.CallExpr) bool { return k.p.TypesInfo.Types[c.Fun].IsType() }

// within is the text of the statement that e is part of, to tell equal expressions apart.
func (k *maker) within() string {
	switch p := k.parent(0).(type) {
	case *ast.AssignStmt, *ast.CallExpr, *ast.ReturnStmt, *ast.BinaryExpr, *ast.KeyValueExpr:
		return " in " + k.flat(p)
	}
	return ""
}

func (k *maker) binary(e *ast.BinaryExpr) {
	switch e.Op {
	case token.LAND:
		k.operands(e, "(", " || (\x00))")
	case token.LOR:
		k.operands(e, "(", " && !(\x00))")
	case token.LSS, token.GTR, token.LEQ, token.GEQ:
		other := map[token.Token]string{token.LSS: "<=", token.LEQ: "<", token.GTR: ">=", token.GEQ: ">"}[e.Op]
		variant := fmt.Sprintf("%s %s %s", k.text(e.X), other, k.text(e.Y))
		k.add(e, "boundary: "+k.flat(e), "((\x00) && ("+variant+") || !(\x00) && (", "))")
	case token.ADD, token.SUB, token.MUL, token.QUO:
		t, ok := k.p.TypesInfo.TypeOf(e).Underlying().(*types.Basic)
		if !ok || t.Info()&types.IsNumeric == 0 {
			return
		}
		other := map[token.Token]string{token.ADD: "-", token.SUB: "+", token.MUL: "/", token.QUO: "*"}[e.Op]
		k.either(e, "other operator: "+k.flat(e)+k.within(), fmt.Sprintf("(%s) %s (%s)", k.text(e.X), other, k.text(e.Y)))
	}
}

// operands of && and || are left out. Those of a chain are visited one by one.
func (k *maker) operands(e *ast.BinaryExpr, before, after string) {
	for _, side := range []ast.Expr{e.X, e.Y} {
		if b, ok := side.(*ast.BinaryExpr); ok && b.Op == e.Op {
			continue
		}
		k.add(side, fmt.Sprintf("ignored: %s in %s", k.flat(side), k.flat(k.chain(e))), before+"(", ")"+after)
	}
}

// chain is the whole of the conditions that e is part of.
func (k *maker) chain(e ast.Expr) ast.Node {
	whole := ast.Node(e)
	for up := 0; ; up++ {
		b, ok := k.parent(up).(*ast.BinaryExpr)
		if !ok || b.Op != token.LAND && b.Op != token.LOR {
			return whole
		}
		whole = b
	}
}

// either computes the variant where it is on.
func (k *maker) either(e ast.Expr, what, variant string) {
	t := typeName(k.p.TypesInfo.TypeOf(e), k.p.Types, k.src.tree)
	if t == "" {
		k.add(e, what, "", "").plain = variant
		return
	}
	k.add(e, what, fmt.Sprintf("mutantEither(\x00, func() %s { return %s }, func() %s { return ", t, variant, t), " })")
}

// call swaps the smaller and the larger, and moves the boundary of times.
func (k *maker) call(e *ast.CallExpr) {
	switch f := e.Fun.(type) {
	case *ast.Ident:
		other := map[string]string{"min": "max", "max": "min"}[f.Name]
		if _, builtin := k.p.TypesInfo.Uses[f].(*types.Builtin); builtin && other != "" {
			k.either(e, "swapped: "+k.flat(e), other+strings.TrimPrefix(k.text(e), f.Name))
		}
	case *ast.SelectorExpr:
		other := map[string]string{"Before": "After", "After": "Before"}[f.Sel.Name]
		if other == "" || len(e.Args) != 1 || k.p.TypesInfo.TypeOf(f.X).String() != "time.Time" {
			return
		}
		variant := fmt.Sprintf("!%s.%s(%s)", k.text(f.X), other, k.text(e.Args[0]))
		k.add(e, "boundary: "+k.flat(e), "((\x00) && ("+variant+") || !(\x00) && (", "))")
	}
}

// numberLiteral is one more. 0 is left alone, which is most often the boundary of a comparison, and so are sizes, indexes and
// the numbers of cases.
func (k *maker) numberLiteral(lit *ast.BasicLit) {
	if lit.Kind != token.INT || lit.Value == "0" {
		return
	}
	switch p := k.parent(0).(type) {
	case *ast.IndexExpr, *ast.SliceExpr, *ast.ArrayType, *ast.CaseClause, *ast.KeyValueExpr:
		return
	case *ast.BinaryExpr:
		if p.Op == token.SHL || p.Op == token.SHR {
			return
		}
	case *ast.UnaryExpr:
		return // -1 stands for none
	case *ast.CallExpr:
		if id, ok := p.Fun.(*ast.Ident); ok && id.Name == "make" {
			return
		}
	}
	value, err := strconv.ParseInt(lit.Value, 0, 64)
	if err != nil {
		return
	}
	what := "other number: " + lit.Value + k.within()
	variant := strconv.FormatInt(value+1, 10)
	t := typeName(k.p.TypesInfo.TypeOf(lit), k.p.Types, k.src.tree)
	if p, ok := k.parent(0).(ast.Expr); t == "" || ok && k.isConstant(p) {
		k.add(lit, what, "", "").plain = variant
		return
	}
	k.add(lit, what, fmt.Sprintf("mutantEither(\x00, func() %s { return %s }, func() %s { return ", t, variant, t), " })")
}

func (k *maker) constantNumber(lit *ast.BasicLit) {
	value, err := strconv.ParseInt(lit.Value, 0, 64)
	if lit.Kind != token.INT || err != nil {
		return
	}
	if _, in := k.parent(0).(*ast.ArrayType); in {
		return
	}
	k.add(lit, "other number: "+lit.Value+k.within(), "", "").plain = strconv.FormatInt(value+1, 10)
}

// field is not set in the literal of a struct.
func (k *maker) field(pair *ast.KeyValueExpr) {
	literal, ok := k.parent(0).(*ast.CompositeLit)
	if !ok {
		return
	}
	if _, ok := k.p.TypesInfo.TypeOf(literal).Underlying().(*types.Struct); !ok {
		return
	}
	tv := k.p.TypesInfo.Types[pair.Value]
	if tv.IsNil() || tv.Value != nil && isZero(tv.Value) {
		return
	}
	key, ok := pair.Key.(*ast.Ident)
	if !ok {
		return
	}
	t := typeName(k.p.TypesInfo.ObjectOf(key).Type(), k.p.Types, k.src.tree)
	what := fmt.Sprintf("not set: %s in %s", k.flat(pair), typeText(literal))
	if t == "" {
		t = typeName(tv.Type, k.p.Types, k.src.tree)
	}
	if t == "" {
		k.add(pair, what, "", "").plain = ""
		return
	}
	k.add(pair.Value, what, fmt.Sprintf("mutantZero[%s](\x00, ", t), ")")
}

func isZero(v constant.Value) bool {
	switch v.Kind() {
	case constant.Bool:
		return !constant.BoolVal(v)
	case constant.String:
		return constant.StringVal(v) == ""
	}
	return constant.Sign(v) == 0
}

func typeText(literal *ast.CompositeLit) string {
	if literal.Type == nil {
		return "a literal"
	}
	return types.ExprString(literal.Type)
}
