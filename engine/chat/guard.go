package chat

import (
	"errors"
	"strings"
	"time"

	"github.com/ardanlabs/jinja"
)

// guard counts the work of one rendering. Its functions are what the names in
// a translated template that begin with two underscores stand for, and some
// that templates know by name.
type guard struct {
	line       int // of the statement being executed
	limit      int // of steps
	steps      int
	written    int // bytes of output
	depth      int // of macros that call each other
	namespaces map[*jinja.Dict]bool
}

type values = []jinja.Value

// functions gives all of the guards, by name.
func (g *guard) functions() map[string]jinja.Value {
	all := make(map[string]jinja.Value)
	for name, f := range map[string]func(args values) (jinja.Value, error){
		"__at": g.at, "__out": g.out, "__if": g.value, "__value": g.value,
		"__enter": g.enter, "__leave": g.leave, "__loop": g.loop, "__finish": g.finish, "__pending": g.pending, "__iter": g.iter, "__unpack": g.unpack, "__put": g.put,
		"__made": g.made, "__all": g.all, "__text": g.text, "__key": g.key,
		"__item": g.item, "__slice": g.slice, "__attr": g.attr,
		"__math": g.math, "__neg": g.neg, "__cat": g.cat, "__compare": g.compare,
		"__is": g.is, "__select": g.selectItems, "__reject": g.rejectItems, "__selectattr": g.selectAttr, "__rejectattr": g.rejectAttr,
		"__forbidden": g.forbidden, "__unknown": g.unknown,
		"raise_exception": g.raise, "range": g.rangeOf, "joiner": g.joiner,
	} {
		all[name] = g.function(name, f)
	}
	for name, f := range map[string]func(args values, kw map[string]jinja.Value) (jinja.Value, error){
		"namespace": g.namespace, "cycler": g.cycler,
		"__replace": g.replace, "__split": g.split, "__format": g.format,
		"__join": g.join, "__indent": g.indent, "__tojson": g.tojson, "__map": g.mapOf,
		"__dictsort": g.dictsort, "__default": g.defaultTo, "__d": g.defaultTo, "__string": g.stringOf, "__capitalize": g.capitalize, "__e": g.escape, "__escape": g.escape, "__upper": g.upper, "__title": g.title, "__list": g.listOf, "__first": g.first, "__last": g.last,
		"__int": g.intOf, "__float": g.floatOf, "__round": g.round, "__sum": g.sum,
		"__batch": g.batch, "__sort": g.sort, "__min": g.min, "__max": g.max, "__unique": g.unique,
	} {
		all[name] = jinja.NewCallable(name, f)
	}
	return all
}

// function makes a value of a function without keyword arguments.
func (g *guard) function(name string, f func(args values) (jinja.Value, error)) jinja.Value {
	return jinja.NewCallable(name, func(args []jinja.Value, kw map[string]jinja.Value) (jinja.Value, error) {
		for k := range kw {
			return jinja.Undefined(), g.failf("%s takes no argument %.40q", strings.TrimPrefix(name, "__"), k)
		}
		return f(args)
	})
}

func (g *guard) failf(format string, args ...any) error { return failf(g.line, format, args...) }

// explain gives an error of the jinja library its place.
func (g *guard) explain(err error) error {
	if errors.Is(err, ErrTemplate) {
		return err
	}
	return g.failf("%.200s", err)
}

// spend counts steps.
func (g *guard) spend(n int) error {
	if g.steps += n; g.steps > g.limit || g.steps < 0 {
		return g.failf("more than %d steps", g.limit)
	}
	return nil
}

// spendText counts the steps of looking at text, and refuses text that is too
// long.
func (g *guard) spendText(n int) error {
	if n > MaxOutput || n < 0 {
		return g.failf("a text of more than %d bytes", MaxOutput)
	}
	return g.spend(1 + n/64)
}

// measure counts the steps of looking at all of a value, and refuses lists
// that are too deep.
func (g *guard) measure(v jinja.Value, depth int) error {
	if depth > MaxDepth {
		return g.failf("more than %d lists in each other", MaxDepth)
	}
	switch {
	case v.IsString():
		return g.spendText(len(v.AsString()))
	case v.IsList():
		for _, item := range v.AsList().Items {
			if err := g.measure(item, depth+1); err != nil {
				return err
			}
		}
	case v.IsDict():
		for _, key := range v.AsDict().Keys {
			if err := g.spendText(len(key)); err != nil {
				return err
			}
			if err := g.measure(v.AsDict().Data[key], depth+1); err != nil {
				return err
			}
		}
	}
	return g.spend(1)
}

func arg(args values, i int) jinja.Value {
	if i < len(args) {
		return args[i]
	}
	return jinja.Undefined()
}

// at begins a statement.
func (g *guard) at(args values) (jinja.Value, error) {
	g.line = int(args[0].AsInt())
	return jinja.None(), g.spend(1)
}

// value is for statements that need nothing but at.
func (g *guard) value(args values) (jinja.Value, error) { return args[1], nil }

// out gives the text of a value that is written to the prompt.
func (g *guard) out(args values) (jinja.Value, error) {
	s, err := g.print(args[1])
	if err != nil {
		return jinja.Undefined(), err
	}
	if g.written += len(s); g.written > MaxOutput {
		return jinja.Undefined(), g.failf("more than %d bytes of output", MaxOutput)
	}
	return jinja.NewString(s), nil
}

func (g *guard) enter(values) (jinja.Value, error) {
	if g.depth++; g.depth > MaxDepth {
		return jinja.Undefined(), g.failf("more than %d macros call each other", MaxDepth)
	}
	return jinja.None(), nil
}

func (g *guard) leave(values) (jinja.Value, error) {
	g.depth--
	return jinja.None(), nil
}

// loop, finish and pending decide whether the else of a loop is executed: in
// jinja2 it is if no turn came to its end, be it by continue or break.
func (g *guard) loop(values) (jinja.Value, error) { return jinja.NewDict(), nil }

func (g *guard) finish(args values) (jinja.Value, error) {
	args[0].AsDict().Set("finished", jinja.NewBool(true))
	return jinja.None(), nil
}

func (g *guard) pending(args values) (jinja.Value, error) {
	return jinja.NewBool(args[0].AsDict().Len() == 0), nil
}

// iter gives what a loop goes over, and counts its turns in advance; with more than one name to set, every item
// must have as many.
func (g *guard) iter(args values) (jinja.Value, error) {
	v, names := args[1], int(args[2].AsInt())
	n := 0
	switch {
	case v.IsList():
		n = v.AsList().Len()
	case v.IsDict():
		n = v.AsDict().Len()
	case v.IsString():
		n = len(v.AsString())
	case !v.IsUndefined():
		return v, g.failf("%s cannot be looped over", kindOf(v))
	}
	if err := g.spend(1 + n); err != nil || names == 1 {
		return v, err
	}
	if n > 0 && !v.IsList() {
		return v, g.failf("%s cannot be taken apart into %d values an item", kindOf(v), names)
	}
	if n > 0 {
		for _, item := range v.AsList().Items {
			if !item.IsList() || item.AsList().Len() != names {
				return v, g.failf("an item of the loop is not a list of %d values", names)
			}
		}
	}
	return v, nil
}

func (g *guard) unpack(args values) (jinja.Value, error) {
	v, names := args[1], int(args[2].AsInt())
	if !v.IsList() || v.AsList().Len() != names {
		return v, g.failf("%s is not a list of %d values", kindOf(v), names)
	}
	return v, nil
}

// put allows a value to become an attribute of a namespace. Nothing else can
// be changed, so this is where a value could come to contain itself.
func (g *guard) put(args values) (jinja.Value, error) {
	space, v := args[1], args[2]
	if !space.IsDict() || !g.namespaces[space.AsDict()] {
		return v, g.failf("only a namespace's attributes can be set")
	}
	if err := g.measure(v, 0); err != nil {
		return v, err
	}
	if contains(v, space.AsDict()) {
		return v, g.failf("a namespace cannot contain itself")
	}
	return v, nil
}

// contains looks for a dict in a value that has been measured.
func contains(v jinja.Value, d *jinja.Dict) bool {
	switch {
	case v.IsList():
		for _, item := range v.AsList().Items {
			if contains(item, d) {
				return true
			}
		}
	case v.IsDict():
		if v.AsDict() == d {
			return true
		}
		for _, item := range v.AsDict().Data {
			if contains(item, d) {
				return true
			}
		}
	}
	return false
}

// made looks at a value that was made just now, but not at what it contains.
func (g *guard) made(args values) (jinja.Value, error) {
	v := arg(args, 0)
	switch {
	case v.IsString():
		return v, g.spendText(len(v.AsString()))
	case v.IsList():
		return v, g.spend(1 + v.AsList().Len())
	case v.IsDict():
		return v, g.spend(1 + v.AsDict().Len())
	}
	return v, g.spend(1)
}

// all looks at a value before something that looks at all of it.
func (g *guard) all(args values) (jinja.Value, error) {
	v := arg(args, 0)
	return v, g.measure(v, 0)
}

// text looks at a value before something that looks at all of a text, but not
// of a list.
func (g *guard) text(args values) (jinja.Value, error) {
	v := arg(args, 0)
	if v.IsString() {
		return v, g.spendText(len(v.AsString()))
	}
	return v, nil
}

// key allows a key of a dict.
func (g *guard) key(args values) (jinja.Value, error) {
	v := arg(args, 0)
	if v.IsList() || v.IsDict() || v.IsCallable() || v.IsUndefined() {
		return v, g.failf("%s cannot be a key", kindOf(v))
	}
	return g.made(args)
}

func (g *guard) forbidden(args values) (jinja.Value, error) {
	return jinja.Undefined(), g.failf("%s would change a value, which templates must not", args[0].AsString())
}

func (g *guard) unknown(args values) (jinja.Value, error) {
	return jinja.Undefined(), g.failf("unknown %s %.40q", args[0].AsString(), args[1].AsString())
}

func (g *guard) raise(args values) (jinja.Value, error) {
	message, err := g.print(arg(args, 0))
	if err != nil {
		return jinja.Undefined(), err
	}
	return jinja.Undefined(), &RaisedError{Line: g.line, Message: message}
}

func (g *guard) rangeOf(args values) (jinja.Value, error) {
	if len(args) < 1 || len(args) > 3 {
		return jinja.Undefined(), g.failf("range takes 1 to 3 numbers, not %d", len(args))
	}
	n := [3]int64{0, 0, 1}
	for i, a := range args {
		if !a.IsInt() {
			return jinja.Undefined(), g.failf("range takes whole numbers, not %s", kindOf(a))
		}
		n[i] = a.AsInt()
	}
	if len(args) == 1 {
		n[0], n[1] = 0, n[0]
	}
	start, stop, step := n[0], n[1], n[2]
	if step == 0 {
		return jinja.Undefined(), g.failf("the step of a range is 0")
	}
	var items values
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		if len(items) == MaxRange {
			return jinja.Undefined(), g.failf("a range of more than %d numbers", MaxRange)
		}
		items = append(items, jinja.NewInt(i))
		if step > 0 && i > stop-step || step < 0 && i < stop-step {
			break // the next one would be beyond stop, and perhaps beyond 64 bits
		}
	}
	return jinja.NewList(items), g.spend(len(items))
}

func (g *guard) namespace(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	d := jinja.NewDict()
	for _, from := range args {
		if !from.IsDict() {
			return d, g.failf("namespace takes a dict, not %s", kindOf(from))
		}
		for _, key := range from.AsDict().Keys {
			d.AsDict().Set(key, from.AsDict().Data[key])
		}
	}
	for _, key := range sortedKeys(kw) {
		d.AsDict().Set(key, kw[key])
	}
	if g.namespaces == nil {
		g.namespaces = map[*jinja.Dict]bool{}
	}
	g.namespaces[d.AsDict()] = true
	return d, g.spend(1 + d.AsDict().Len())
}

// joiner gives a function that gives nothing the first time, then the
// separator.
func (g *guard) joiner(args values) (jinja.Value, error) {
	separator := ", "
	if len(args) > 0 {
		var err error
		if separator, err = g.print(args[0]); err != nil {
			return jinja.Undefined(), err
		}
	}
	used := false
	return g.function("joiner", func(values) (jinja.Value, error) {
		if !used {
			used = true
			return jinja.NewString(""), nil
		}
		return jinja.NewString(separator), nil
	}), nil
}

// cycler takes texts and numbers alone: with a namespace among its items, it
// would be a second way to make a value that contains itself.
func (g *guard) cycler(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	if len(args) == 0 || len(kw) > 0 {
		return jinja.Undefined(), g.failf("cycler takes items, at least one")
	}
	for _, a := range args {
		if _, err := g.key(values{a}); err != nil {
			return jinja.Undefined(), err
		}
	}
	at := 0
	cycler := jinja.NewDict()
	d := cycler.AsDict()
	d.Set("current", args[0])
	d.Set("next", g.function("cycler.next", func(values) (jinja.Value, error) {
		now := args[at]
		at = (at + 1) % len(args)
		d.Set("current", args[at])
		return now, nil
	}))
	d.Set("reset", g.function("cycler.reset", func(values) (jinja.Value, error) {
		at = 0
		d.Set("current", args[0])
		return jinja.None(), nil
	}))
	return cycler, nil
}

// strftime formats a time as Python's strftime does in the C locale.
func (g *guard) strftime(now time.Time) func(values) (jinja.Value, error) {
	layouts := map[byte]string{
		'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM",
		'B': "January", 'b': "Jan", 'h': "Jan", 'A': "Monday", 'a': "Mon", 'j': "002", 'Z': "MST", 'z': "-0700",
		'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04", 'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05",
	}
	return func(args values) (jinja.Value, error) {
		format, err := g.print(arg(args, 0))
		if err != nil {
			return jinja.Undefined(), err
		}
		var b strings.Builder
		for i := 0; i < len(format); i++ {
			if format[i] != '%' || i+1 == len(format) {
				b.WriteByte(format[i])
				continue
			}
			i++
			dash := format[i] == '-' && i+1 < len(format) // %-d: without the leading zero
			if dash {
				i++
			}
			layout, ok := layouts[format[i]]
			switch {
			case format[i] == '%':
				b.WriteByte('%')
			case !ok:
				return jinja.Undefined(), g.failf("unknown directive %%%c in a date's format", format[i])
			case dash:
				b.WriteString(strings.TrimLeft(now.Format(layout), "0 "))
			default:
				b.WriteString(now.Format(layout))
			}
		}
		return jinja.NewString(b.String()), g.spendText(b.Len())
	}
}

// kindOf names a value's type in an error.
func kindOf(v jinja.Value) string {
	switch {
	case v.IsUndefined():
		return "an undefined value"
	case v.IsNone():
		return "none"
	case v.IsBool():
		return "a truth value"
	case v.IsInt():
		return "a whole number"
	case v.IsFloat():
		return "a number"
	case v.IsString():
		return "a text"
	case v.IsList():
		return "a list"
	case v.IsDict():
		return "a dict"
	}
	return "a function"
}
