package chat

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ardanlabs/jinja"
)

// sortable reads the items of a list and what each is sorted by: itself, or an
// attribute, letter case aside.
func (g *guard) sortable(v, caseSensitive, attribute jinja.Value) (items, by values, err error) {
	if items, err = g.items(v); err != nil {
		return nil, nil, err
	}
	by = make(values, len(items))
	for i, item := range items {
		if !attribute.IsUndefined() && !attribute.IsNone() {
			if item, err = g.attribute(item, attribute); err != nil {
				return nil, nil, err
			}
		}
		if item.IsString() && !caseSensitive.IsTruthy() {
			if err := g.spendText(len(item.AsString())); err != nil {
				return nil, nil, err
			}
			item = jinja.NewString(strings.ToLower(item.AsString()))
		}
		by[i] = item
	}
	return items, by, nil
}

func (g *guard) sort(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "reverse", "case_sensitive", "attribute")
	if err != nil {
		return jinja.Undefined(), err
	}
	items, by, err := g.sortable(args[0], opts[1], opts[2])
	if err != nil {
		return jinja.Undefined(), err
	}
	places := make([]int, len(items))
	for i := range places {
		places[i] = i
	}
	slices.SortStableFunc(places, func(i, j int) int {
		if err != nil {
			return 0
		}
		if opts[0].IsTruthy() {
			i, j = j, i
		}
		order, failed := g.order(by[i], by[j])
		if failed == nil {
			failed = g.spend(1)
		}
		err = failed
		return order
	})
	sorted := make(values, len(items))
	for i, at := range places {
		sorted[i] = items[at]
	}
	return jinja.NewList(sorted), err
}

func (g *guard) min(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	return g.extreme(args, kw, -1)
}

func (g *guard) max(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	return g.extreme(args, kw, 1)
}

// extreme gives the first of the items that come first (-1) or last (1).
func (g *guard) extreme(args values, kw map[string]jinja.Value, sign int) (jinja.Value, error) {
	opts, err := g.options(args, kw, "case_sensitive", "attribute")
	if err != nil {
		return jinja.Undefined(), err
	}
	items, by, err := g.sortable(args[0], opts[0], opts[1])
	if err != nil || len(items) == 0 {
		return jinja.Undefined(), err
	}
	best := 0
	for i := range items {
		order, err := g.order(by[i], by[best])
		if err != nil {
			return jinja.Undefined(), err
		}
		if order*sign > 0 {
			best = i
		}
	}
	return items[best], nil
}

// unique leaves the first of equal items.
func (g *guard) unique(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "case_sensitive", "attribute")
	if err != nil {
		return jinja.Undefined(), err
	}
	items, by, err := g.sortable(args[0], opts[0], opts[1])
	if err != nil {
		return jinja.Undefined(), err
	}
	var kept values
	seen := map[string]bool{}
	for i, item := range items {
		var key strings.Builder
		if err := g.repr(&key, by[i], 0); err != nil {
			return jinja.Undefined(), err
		}
		if !seen[key.String()] {
			seen[key.String()] = true
			kept = append(kept, item)
		}
	}
	return jinja.NewList(kept), nil
}

func (g *guard) sum(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "attribute", "start")
	if err != nil {
		return jinja.Undefined(), err
	}
	items, by, err := g.sortable(args[0], jinja.NewBool(true), opts[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	total := opts[1]
	if total.IsUndefined() {
		total = jinja.NewInt(0)
	}
	for i := range items {
		if !total.IsNumber() || !by[i].IsNumber() && !by[i].IsBool() {
			return jinja.Undefined(), g.failf("%s cannot be summed up", kindOf(by[i]))
		}
		if total, err = g.operate("+", total, by[i]); err != nil {
			return jinja.Undefined(), err
		}
	}
	return total, nil
}

// intOf makes a whole number of a number or text, and a default of anything
// else.
func (g *guard) intOf(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "default")
	if err != nil {
		return jinja.Undefined(), err
	}
	if v := digits(trimmed(args[0])); v.IsInt() {
		return v, nil
	}
	if f, ok := toFloat(args[0]); ok && math.Abs(f) < 1<<63 {
		return jinja.NewInt(int64(f)), nil
	}
	if opts[0].IsUndefined() {
		return jinja.NewInt(0), nil
	}
	return opts[0], nil
}

func (g *guard) floatOf(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "default")
	if err != nil {
		return jinja.Undefined(), err
	}
	if f, ok := toFloat(args[0]); ok {
		return jinja.NewFloat(f), nil
	}
	if opts[0].IsUndefined() {
		return jinja.NewFloat(0), nil
	}
	return opts[0], nil
}

// trimmed takes white space off a text that is short enough to be a number.
func trimmed(v jinja.Value) jinja.Value {
	if v.IsString() && len(v.AsString()) < 100 {
		return jinja.NewString(strings.TrimFunc(v.AsString(), isSpace))
	}
	return v
}

// toFloat makes a finite number of a number or text.
func toFloat(v jinja.Value) (float64, bool) {
	switch v = trimmed(v); {
	case v.IsBool():
		return asFloat(number(v)), true
	case v.IsNumber():
		return asFloat(v), true
	case v.IsString() && len(v.AsString()) < 100:
		f, err := strconv.ParseFloat(v.AsString(), 64)
		return f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
	}
	return 0, false
}

// round rounds halves to even, as Python does.
func (g *guard) round(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "precision", "method")
	if err != nil {
		return jinja.Undefined(), err
	}
	v := args[0]
	precision, err := g.integer(opts[0], 0)
	if err != nil {
		return jinja.Undefined(), err
	}
	if !v.IsNumber() || precision < 0 || precision > 15 {
		return jinja.Undefined(), g.failf("%s cannot be rounded to %d digits", kindOf(v), precision)
	}
	method := math.RoundToEven
	switch m := opts[1]; {
	case m.IsString() && m.AsString() == "floor":
		method = math.Floor
	case m.IsString() && m.AsString() == "ceil":
		method = math.Ceil
	case m.IsUndefined() || m.IsString() && m.AsString() == "common":
		if v.IsInt() {
			return v, nil
		}
	default:
		return jinja.Undefined(), g.failf("round knows the methods common, floor and ceil")
	}
	scale := math.Pow10(int(precision))
	x := method(asFloat(v)*scale) / scale
	if math.IsInf(x, 0) {
		x = asFloat(v)
	}
	return jinja.NewFloat(x), nil
}
