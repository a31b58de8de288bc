package chat

import (
	"strings"

	"github.com/ardanlabs/jinja"
)

// testNames is every test that templates may use: x is name.
var testNames = map[string]bool{
	"boolean": true, "callable": true, "defined": true, "divisibleby": true, "even": true, "false": true, "float": true,
	"in": true, "integer": true, "iterable": true, "lower": true, "mapping": true, "none": true, "number": true, "odd": true,
	"sameas": true, "sequence": true, "string": true, "true": true, "undefined": true, "upper": true,
	"eq": true, "equalto": true, "==": true, "ne": true, "!=": true, "gt": true, "greaterthan": true, ">": true, "ge": true, ">=": true,
	"lt": true, "lessthan": true, "<": true, "le": true, "<=": true,
}

// comparisons are the tests that are operators under another name.
var comparisons = map[string]string{
	"eq": "==", "equalto": "==", "==": "==", "ne": "!=", "!=": "!=", "gt": ">", "greaterthan": ">", ">": ">", "ge": ">=", ">=": ">=",
	"lt": "<", "lessthan": "<", "<": "<", "le": "<=", "<=": "<=", "in": "in",
}

// is has the value, the name of a test, and the test's arguments.
func (g *guard) is(args values) (jinja.Value, error) {
	ok, err := g.test(args[1].AsString(), args[0], args[2:])
	return jinja.NewBool(ok), err
}

func (g *guard) test(name string, v jinja.Value, args values) (bool, error) {
	if err := g.spend(1); err != nil {
		return false, err
	}
	wanted := 0
	if op, ok := comparisons[name]; ok {
		if len(args) == 1 {
			return g.compareTwo(v, op, args[0])
		}
		wanted = 1
	}
	if name == "divisibleby" || name == "sameas" {
		wanted = 1
	}
	if len(args) != wanted {
		return false, g.failf("the test %.40q takes %d arguments, not %d", name, wanted, len(args))
	}
	switch name {
	case "boolean":
		return v.IsBool(), nil
	case "callable":
		return v.IsCallable(), nil
	case "defined":
		return !v.IsUndefined(), nil
	case "undefined":
		return v.IsUndefined(), nil
	case "none":
		return v.IsNone(), nil
	case "true":
		return v.IsBool() && v.AsBool(), nil
	case "false":
		return v.IsBool() && !v.AsBool(), nil
	case "integer":
		return v.IsInt(), nil
	case "float":
		return v.IsFloat(), nil
	case "number":
		return v.IsNumber() || v.IsBool(), nil
	case "string":
		return v.IsString(), nil
	case "mapping":
		return v.IsDict(), nil
	case "sequence", "iterable":
		return v.IsList() || v.IsDict() || v.IsString() || v.IsUndefined(), nil
	case "odd", "even", "divisibleby":
		return g.divisible(name, v, args)
	case "sameas":
		return same(v, args[0]), nil
	case "lower", "upper":
		if !v.IsString() {
			return false, nil
		}
		s := v.AsString()
		if err := g.spendText(len(s)); err != nil {
			return false, err
		}
		small, capital := strings.ToLower(s), strings.ToUpper(s)
		return small != capital && (s == small && name == "lower" || s == capital && name == "upper"), nil
	}
	return false, g.failf("unknown test %.40q", name)
}

func (g *guard) divisible(name string, v jinja.Value, args values) (bool, error) {
	by := jinja.NewInt(2)
	if len(args) > 0 {
		by = args[0]
	}
	rest, err := g.operate("%", v, by)
	if err != nil {
		return false, err
	}
	return (rest.IsNumber() && asFloat(rest) == 0) != (name == "odd"), nil
}

// same reports whether two values are one, not merely equal.
func same(a, b jinja.Value) bool {
	switch {
	case a.IsList() && b.IsList():
		return a.AsList() == b.AsList()
	case a.IsDict() && b.IsDict():
		return a.AsDict() == b.AsDict()
	case a.IsList() || a.IsDict():
		return false
	}
	return a.Equals(b)
}

// choose is select, reject, selectattr and rejectattr: it keeps the items for
// which a test, truth if none is named, has the outcome wanted.
func (g *guard) choose(args values, attribute, wanted bool) (jinja.Value, error) {
	if !args[0].IsTruthy() { // none has no items, but jinja2 does not look
		return jinja.NewList(nil), nil
	}
	items, err := g.items(args[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	rest := args[1:]
	if attribute {
		if len(rest) == 0 {
			return jinja.Undefined(), g.failf("an attribute to choose by is missing")
		}
		rest = rest[1:]
	}
	var kept values
	for _, item := range items {
		v := item
		if attribute {
			if v, err = g.attribute(item, args[1]); err != nil {
				return jinja.Undefined(), err
			}
		}
		ok := v.IsTruthy()
		if len(rest) > 0 {
			name, err := g.print(rest[0])
			if err != nil {
				return jinja.Undefined(), err
			}
			if ok, err = g.test(name, v, rest[1:]); err != nil {
				return jinja.Undefined(), err
			}
		}
		if ok == wanted {
			kept = append(kept, item)
		}
	}
	return jinja.NewList(kept), nil
}

func (g *guard) selectItems(args values) (jinja.Value, error) { return g.choose(args, false, true) }
func (g *guard) rejectItems(args values) (jinja.Value, error) { return g.choose(args, false, false) }
func (g *guard) selectAttr(args values) (jinja.Value, error)  { return g.choose(args, true, true) }
func (g *guard) rejectAttr(args values) (jinja.Value, error)  { return g.choose(args, true, false) }
