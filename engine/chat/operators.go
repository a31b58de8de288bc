package chat

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ardanlabs/jinja"
)

// math applies an arithmetic operator from left to right, with Python's rules.
func (g *guard) math(args values) (jinja.Value, error) {
	op, left := args[0].AsString(), args[1]
	if op == "+" && left.IsString() {
		return g.concatStrings(args[1:])
	}
	var err error
	for _, right := range args[2:] {
		if left, err = g.operate(op, left, right); err != nil {
			return left, err
		}
	}
	return left, nil
}

// concatStrings adds texts, all of which must be texts.
func (g *guard) concatStrings(args values) (jinja.Value, error) {
	n := 0
	for _, a := range args {
		if !a.IsString() {
			return a, g.failf("%s cannot be added to a text", kindOf(a))
		}
		n += len(a.AsString())
	}
	if err := g.spendText(n); err != nil {
		return jinja.Undefined(), err
	}
	var b strings.Builder
	b.Grow(n)
	for _, a := range args {
		b.WriteString(a.AsString())
	}
	return jinja.NewString(b.String()), nil
}

// cat joins the texts of any values.
func (g *guard) cat(args values) (jinja.Value, error) {
	texts := make(values, len(args))
	for i, a := range args {
		s, err := g.print(a)
		if err != nil {
			return a, err
		}
		texts[i] = jinja.NewString(s)
	}
	return g.concatStrings(texts)
}

func (g *guard) operate(op string, a, b jinja.Value) (jinja.Value, error) {
	if a.IsBool() {
		a = number(a)
	}
	if b.IsBool() {
		b = number(b)
	}
	switch {
	case a.IsInt() && b.IsInt():
		return g.integers(op, a.AsInt(), b.AsInt())
	case a.IsNumber() && b.IsNumber():
		return g.floats(op, asFloat(a), asFloat(b))
	case op == "+" && a.IsList() && b.IsList():
		n := a.AsList().Len() + b.AsList().Len()
		items := make(values, 0, n)
		items = append(append(items, a.AsList().Items...), b.AsList().Items...)
		return jinja.NewList(items), g.spend(1 + n)
	case op == "*" && a.IsInt():
		a, b = b, a
		fallthrough
	case op == "*" && b.IsInt():
		return g.repeat(a, b.AsInt())
	}
	return a, g.failf("%s and %s have no %s", kindOf(a), kindOf(b), op)
}

// repeat is a text or list times a number.
func (g *guard) repeat(v jinja.Value, n int64) (jinja.Value, error) {
	n = max(n, 0)
	switch {
	case v.IsString():
		s := v.AsString()
		if n > MaxOutput {
			n = min(n, int64(MaxOutput)/int64(max(len(s), 1))+1) // too long, or empty
		}
		if err := g.spendText(len(s) * int(n)); err != nil {
			return v, err
		}
		return jinja.NewString(strings.Repeat(s, int(n))), nil
	case v.IsList():
		items := v.AsList().Items
		if len(items) > 0 && n > MaxSteps/int64(len(items)) {
			return v, g.failf("more than %d steps", MaxSteps)
		}
		if len(items) == 0 {
			n = 0
		}
		if err := g.spend(len(items) * int(n)); err != nil {
			return v, err
		}
		var all values
		for range n {
			all = append(all, items...)
		}
		return jinja.NewList(all), nil
	}
	return v, g.failf("%s cannot be repeated", kindOf(v))
}

func (g *guard) integers(op string, a, b int64) (jinja.Value, error) {
	n, ok := int64(0), true
	switch op {
	case "+":
		n = a + b
		ok = (n > a) == (b > 0)
	case "-":
		n = a - b
		ok = (n < a) == (b > 0)
	case "*":
		n = a * b
		ok = a == 0 || n/a == b && !(a == -1 && b == math.MinInt64)
	case "**":
		if b < 0 {
			return g.floats(op, float64(a), float64(b))
		}
		n = 1
		for range min(b, 64) {
			if a != 0 && a != 1 && a != -1 && (n*a/a != n || n*a == math.MinInt64) {
				ok = false
				break
			}
			n *= a
		}
		if a == -1 && b > 64 {
			n = 1 - 2*(b%2)
		}
	case "/":
		return g.floats(op, float64(a), float64(b))
	default: // "//" and "%" round down
		if b == 0 {
			return jinja.Undefined(), g.failf("division by zero")
		}
		quotient, rest := a/b, a%b
		if rest != 0 && (rest < 0) != (b < 0) {
			quotient, rest = quotient-1, rest+b
		}
		n, ok = quotient, !(a == math.MinInt64 && b == -1)
		if op == "%" {
			n, ok = rest, true
		}
	}
	if !ok {
		return jinja.Undefined(), g.failf("a number of more than 64 bits")
	}
	return jinja.NewInt(n), nil
}

func (g *guard) floats(op string, a, b float64) (jinja.Value, error) {
	if b == 0 && (op == "/" || op == "//" || op == "%") {
		return jinja.Undefined(), g.failf("division by zero")
	}
	var x float64
	switch op {
	case "+":
		x = a + b
	case "-":
		x = a - b
	case "*":
		x = a * b
	case "**":
		x = math.Pow(a, b)
	case "/":
		x = a / b
	case "//":
		x = math.Floor(a / b)
	case "%":
		if x = math.Mod(a, b); x != 0 && (x < 0) != (b < 0) {
			x += b
		}
	}
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return jinja.Undefined(), g.failf("%v %s %v is not a number", a, op, b)
	}
	return jinja.NewFloat(x), nil
}

func (g *guard) neg(args values) (jinja.Value, error) {
	if v := arg(args, 0); v.IsFloat() {
		return jinja.NewFloat(-v.AsFloat()), nil // 0 - 0.0 would lose the sign
	}
	return g.operate("-", jinja.NewInt(0), arg(args, 0))
}

// number makes 0 or 1 of a truth value.
func number(v jinja.Value) jinja.Value {
	if v.AsBool() {
		return jinja.NewInt(1)
	}
	return jinja.NewInt(0)
}

func asFloat(v jinja.Value) float64 {
	if v.IsInt() {
		return float64(v.AsInt())
	}
	return v.AsFloat()
}

// compare is a chain of comparisons, a < b <= c: values with operators between
// them.
func (g *guard) compare(args values) (jinja.Value, error) {
	for i := 0; i+2 < len(args); i += 2 {
		ok, err := g.compareTwo(args[i], args[i+1].AsString(), args[i+2])
		if err != nil || !ok {
			return jinja.NewBool(false), err
		}
	}
	return jinja.NewBool(true), nil
}

func (g *guard) compareTwo(a jinja.Value, op string, b jinja.Value) (bool, error) {
	switch op {
	case "==":
		return g.equal(a, b, 0)
	case "!=":
		same, err := g.equal(a, b, 0)
		return !same, err
	case "in":
		return g.in(a, b)
	case "not in":
		found, err := g.in(a, b)
		return !found, err
	}
	order, err := g.order(a, b)
	if err != nil {
		return false, err
	}
	switch op {
	case "<":
		return order < 0, nil
	case "<=":
		return order <= 0, nil
	case ">":
		return order > 0, nil
	}
	return order >= 0, nil
}

// order is below 0 if a comes before b, and above 0 if after it. Between a
// number and a text there is none in Python; but the jinja library's dicts
// have texts for keys only, so the digits of a number count as that number.
func (g *guard) order(a, b jinja.Value) (int, error) {
	if a.IsBool() {
		a = number(a)
	}
	if b.IsBool() {
		b = number(b)
	}
	if a.IsNumber() {
		b = digits(b)
	}
	if b.IsNumber() {
		a = digits(a)
	}
	switch {
	case a.IsInt() && b.IsInt():
		return compareOrdered(a.AsInt(), b.AsInt()), nil
	case a.IsNumber() && b.IsNumber():
		return compareOrdered(asFloat(a), asFloat(b)), nil
	case a.IsString() && b.IsString():
		return strings.Compare(a.AsString(), b.AsString()), g.spendText(min(len(a.AsString()), len(b.AsString())))
	}
	return 0, g.failf("%s and %s have no order", kindOf(a), kindOf(b))
}

// digits makes a number of a text that is one.
func digits(v jinja.Value) jinja.Value {
	if v.IsString() && len(v.AsString()) <= 20 {
		if n, err := strconv.ParseInt(v.AsString(), 10, 64); err == nil {
			return jinja.NewInt(n)
		}
	}
	return v
}

func compareOrdered[T int64 | float64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (g *guard) equal(a, b jinja.Value, depth int) (bool, error) {
	if depth > MaxDepth {
		return false, g.failf("more than %d lists in each other", MaxDepth)
	}
	if err := g.spend(1); err != nil {
		return false, err
	}
	if a.IsBool() && !b.IsBool() {
		a = number(a)
	}
	if b.IsBool() && !a.IsBool() {
		b = number(b)
	}
	switch {
	case a.IsNumber() && b.IsNumber():
		return asFloat(a) == asFloat(b), nil
	case a.IsString() && b.IsString():
		if len(a.AsString()) != len(b.AsString()) {
			return false, nil
		}
		return a.AsString() == b.AsString(), g.spendText(len(a.AsString()))
	case a.IsList() && b.IsList():
		x, y := a.AsList().Items, b.AsList().Items
		if len(x) != len(y) {
			return false, nil
		}
		for i := range x {
			if same, err := g.equal(x[i], y[i], depth+1); err != nil || !same {
				return false, err
			}
		}
		return true, nil
	case a.IsDict() && b.IsDict():
		x, y := a.AsDict(), b.AsDict()
		if x.Len() != y.Len() {
			return false, nil
		}
		for _, key := range x.Keys {
			other, ok := y.Get(key)
			if !ok {
				return false, nil
			}
			if same, err := g.equal(x.Data[key], other, depth+1); err != nil || !same {
				return false, err
			}
		}
		return true, nil
	}
	return a.Equals(b), nil
}

func (g *guard) in(item, container jinja.Value) (bool, error) {
	switch {
	case container.IsString():
		if !item.IsString() {
			return false, g.failf("%s cannot be in a text", kindOf(item))
		}
		return strings.Contains(container.AsString(), item.AsString()), g.spendText(len(container.AsString()))
	case container.IsDict():
		return item.IsString() && container.AsDict().Has(item.AsString()), g.spend(1)
	case container.IsList():
		for _, v := range container.AsList().Items {
			if same, err := g.equal(item, v, 0); err != nil || same {
				return same, err
			}
		}
		return false, nil
	case container.IsUndefined():
		return false, nil
	}
	return false, g.failf("nothing can be in %s", kindOf(container))
}

// item is a subscript. What is not there is undefined.
func (g *guard) item(args values) (jinja.Value, error) {
	v, key := args[0], args[1]
	if key.IsBool() {
		key = number(key)
	}
	switch {
	case v.IsDict():
		if _, err := g.key(values{key}); err != nil {
			return key, err
		}
		k, err := g.print(key)
		if err != nil {
			return key, err
		}
		item, _ := v.AsDict().Get(k)
		return item, nil
	case v.IsList() && key.IsInt():
		items := v.AsList().Items
		if i := position(key.AsInt(), len(items)); i >= 0 && i < len(items) {
			return items[i], nil
		}
		return jinja.Undefined(), nil
	case v.IsString() && key.IsInt():
		s := v.AsString()
		if err := g.spendText(len(s)); err != nil {
			return v, err
		}
		i := position(key.AsInt(), utf8.RuneCountInString(s))
		for _, r := range s {
			if i == 0 {
				return jinja.NewString(string(r)), nil
			}
			i--
		}
		return jinja.Undefined(), nil
	case v.IsUndefined():
		return v, g.failf("an undefined value has no items")
	}
	return jinja.Undefined(), nil
}

// position counts negative indexes from the end.
func position(i int64, n int) int {
	if i < 0 {
		i += int64(n)
	}
	return int(max(min(i, int64(n)), -1))
}

// attr is an attribute: an entry of a dict. What is not there is undefined.
func (g *guard) attr(args values) (jinja.Value, error) {
	v, name := args[0], args[1].AsString()
	switch {
	case v.IsDict():
		entry, _ := v.AsDict().Get(name)
		return entry, nil
	case v.IsUndefined():
		return v, g.failf("an undefined value has no attribute %.40q", name)
	}
	return jinja.Undefined(), nil
}

// slice is v[start:stop:step].
func (g *guard) slice(args values) (jinja.Value, error) {
	v := args[0]
	var runes []rune
	n := 0
	switch {
	case v.IsList():
		n = v.AsList().Len()
		if err := g.spend(1 + n); err != nil {
			return v, err
		}
	case v.IsString():
		if err := g.spend(1 + len(v.AsString())/16); err != nil { // four bytes a character
			return v, err
		}
		runes = []rune(v.AsString())
		n = len(runes)
	default:
		return v, g.failf("%s has no slices", kindOf(v))
	}
	step := int64(1)
	if !args[3].IsNone() {
		if !args[3].IsInt() || args[3].AsInt() == 0 {
			return v, g.failf("the step of a slice is not a whole number above or below 0")
		}
		step = args[3].AsInt()
	}
	low, high := int64(0), int64(n) // where bounds are kept, and where the slice goes by default
	start, stop := low, high
	if step < 0 {
		low, high = -1, int64(n)-1
		start, stop = high, low
	}
	for i, bound := range []*int64{&start, &stop} {
		switch b := args[1+i]; {
		case b.IsInt():
			*bound = b.AsInt()
			if *bound < 0 {
				*bound += int64(n)
			}
			*bound = max(low, min(high, *bound))
		case !b.IsNone():
			return v, g.failf("%s is no bound of a slice", kindOf(b))
		}
	}
	var chosen []int
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		chosen = append(chosen, int(i))
		if step > int64(n) || step < -int64(n) {
			break
		}
	}
	if v.IsString() {
		picked := make([]rune, len(chosen))
		for i, at := range chosen {
			picked[i] = runes[at]
		}
		return jinja.NewString(string(picked)), nil
	}
	picked := make(values, len(chosen))
	for i, at := range chosen {
		picked[i] = v.AsList().Items[at]
	}
	return jinja.NewList(picked), nil
}
