package chat

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ardanlabs/jinja"
)

// filter is how a filter of jinja2 is executed.
type filter struct {
	// look is the guard for what goes into the jinja library's own filter. If
	// it is empty, ours stands in, under the name with two underscores: where
	// the library's could make something large of something small, or gives
	// something else than jinja2.
	look    string
	most    int    // arguments that the library's filter understands
	missing string // argument to give if there is none
}

// filters is every filter that templates may use.
var filters = map[string]filter{
	"abs": {look: "__text"}, "count": {look: "__text"}, "length": {look: "__text"}, "safe": {look: "__text"},
	"batch": {look: "__made", most: 1}, "items": {look: "__made"}, "reverse": {look: "__made"},
	"select": {look: "__all", most: 9, missing: "''"}, "reject": {look: "__all", most: 9, missing: "''"},
	"capitalize": {look: "__string"}, "e": {look: "__string"}, "escape": {look: "__string"}, "lower": {look: "__string"},
	"trim": {look: "__string", most: 1}, "wordcount": {look: "__string"},
	"selectattr": {look: "__all", most: 9}, "rejectattr": {look: "__all", most: 9},

	"d": {}, "default": {}, "dictsort": {}, "first": {}, "float": {}, "indent": {}, "int": {}, "join": {}, "last": {}, "list": {},
	"map": {}, "max": {}, "min": {}, "replace": {}, "round": {}, "sort": {}, "string": {}, "sum": {}, "title": {}, "tojson": {},
	"unique": {}, "upper": {},
}

// tests is every test that templates may use, with the guard for what it is
// asked of.
var tests = map[string]string{
	"boolean": "", "callable": "", "defined": "", "even": "", "false": "", "float": "", "integer": "", "iterable": "",
	"mapping": "", "none": "", "number": "", "odd": "", "sequence": "", "string": "", "true": "", "undefined": "",
	"lower": "__text", "upper": "__text",
	"eq": "__all", "equalto": "__all", "ne": "__all", "sameas": "__all", "in": "__all",
	"ge": "__all", "gt": "__all", "greaterthan": "__all", "le": "__all", "lt": "__all", "lessthan": "__all",
}

type methodKind int

const (
	plain   methodKind = iota // of the jinja library
	guarded                   // one of ours, __name
	changes                   // would change a value; jinja2's sandbox refuses it too
)

// methods is every method of texts, lists and dicts; other attributes are
// looked up in dicts.
var methods = map[string]methodKind{
	"capitalize": plain, "count": plain, "endswith": plain, "find": plain, "get": plain, "items": plain, "keys": plain,
	"lower": plain, "lstrip": plain, "rstrip": plain, "startswith": plain, "strip": plain, "title": plain, "values": plain,
	"format": guarded, "replace": guarded, "split": guarded, "upper": guarded,
	"append": changes, "clear": changes, "extend": changes, "insert": changes, "pop": changes, "popitem": changes,
	"remove": changes, "setdefault": changes, "update": changes,
}

// options reads arguments that may be given by place or by name, and refuses
// others.
func (g *guard) options(args values, kw map[string]jinja.Value, names ...string) (values, error) {
	if len(args) > 1+len(names) {
		return nil, g.failf("%d arguments, at most %d are understood", len(args)-1, len(names))
	}
	all := make(values, len(names))
	for i, name := range names {
		all[i] = arg(args, i+1)
		if v, ok := kw[name]; ok {
			all[i] = v
		}
	}
	known := 0
	for _, name := range names {
		if _, ok := kw[name]; ok {
			known++
		}
	}
	if known < len(kw) {
		return nil, g.failf("an argument of %.80q is not understood", sortedKeys(kw))
	}
	return all, nil
}

// integer reads an optional whole number.
func (g *guard) integer(v jinja.Value, otherwise int64) (int64, error) {
	switch {
	case v.IsUndefined() || v.IsNone():
		return otherwise, nil
	case v.IsBool():
		return number(v).AsInt(), nil
	case v.IsInt():
		return v.AsInt(), nil
	}
	return 0, g.failf("%s is not a whole number", kindOf(v))
}

func (g *guard) join(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "d", "attribute")
	if err != nil {
		return jinja.Undefined(), err
	}
	sep, err := g.print(opts[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	items, err := g.items(args[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	var b strings.Builder
	for i, item := range items {
		if !opts[1].IsUndefined() {
			if item, err = g.item(values{item, opts[1]}); err != nil {
				return jinja.Undefined(), err
			}
		}
		s, err := g.print(item)
		if err != nil {
			return jinja.Undefined(), err
		}
		if i > 0 {
			b.WriteString(sep)
		}
		if b.Len()+len(s) > MaxOutput {
			return jinja.Undefined(), g.failf("a text of more than %d bytes", MaxOutput)
		}
		b.WriteString(s)
		if err := g.spend(1 + len(sep)/64); err != nil {
			return jinja.Undefined(), err
		}
	}
	return jinja.NewString(b.String()), g.spendText(b.Len())
}

// items gives what a value has when it is looped over.
func (g *guard) items(v jinja.Value) (values, error) {
	switch {
	case v.IsUndefined():
		return nil, nil
	case v.IsList():
		return v.AsList().Items, g.spend(v.AsList().Len())
	case v.IsDict():
		keys := make(values, v.AsDict().Len())
		for i, k := range v.AsDict().Keys {
			keys[i] = jinja.NewString(k)
		}
		return keys, g.spend(len(keys))
	case v.IsString():
		s := v.AsString()
		n := utf8.RuneCountInString(s)
		if err := g.spend(n); err != nil {
			return nil, err
		}
		chars := make(values, 0, n)
		for _, r := range s {
			chars = append(chars, jinja.NewString(string(r)))
		}
		return chars, nil
	}
	return nil, g.failf("%s has no items", kindOf(v))
}

// dictsort gives the pairs of a dict by rising key, letter case aside. Keys that
// are all numbers are sorted as such.
func (g *guard) dictsort(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "case_sensitive", "by", "reverse")
	if err != nil {
		return jinja.Undefined(), err
	}
	if !args[0].IsDict() || !opts[1].IsUndefined() && !(opts[1].IsString() && opts[1].AsString() == "key") {
		return jinja.Undefined(), g.failf("dictsort sorts dicts by their keys only")
	}
	d := args[0].AsDict()
	type entry struct {
		key  string
		sort jinja.Value
	}
	entries := make([]entry, d.Len())
	numbers := true
	for i, key := range d.Keys {
		entries[i] = entry{key, jinja.NewString(key)}
		if !opts[0].IsTruthy() {
			entries[i].sort = jinja.NewString(strings.ToLower(key))
		}
		numbers = numbers && digits(jinja.NewString(key)).IsInt()
		if err := g.spendText(16 * len(key)); err != nil { // compared as often with others
			return jinja.Undefined(), err
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int {
		if opts[2].IsTruthy() {
			a, b = b, a
		}
		if numbers {
			return cmp.Compare(digits(a.sort).AsInt(), digits(b.sort).AsInt())
		}
		return strings.Compare(a.sort.AsString(), b.sort.AsString())
	})
	pairs := make(values, len(entries))
	for i, e := range entries {
		pairs[i] = jinja.NewList(values{jinja.NewString(e.key), d.Data[e.key]})
	}
	return jinja.NewList(pairs), nil
}

func (g *guard) listOf(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	if _, err := g.options(args, kw); err != nil {
		return jinja.Undefined(), err
	}
	items, err := g.items(args[0])
	return jinja.NewList(items), err
}

func (g *guard) first(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	return g.oneOf(args, kw, func(n int) int { return 0 })
}

func (g *guard) last(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	return g.oneOf(args, kw, func(n int) int { return n - 1 })
}

// oneOf gives one of n items, undefined if there are none.
func (g *guard) oneOf(args values, kw map[string]jinja.Value, at func(n int) int) (jinja.Value, error) {
	if _, err := g.options(args, kw); err != nil {
		return jinja.Undefined(), err
	}
	if v := args[0]; v.IsList() { // the usual case, without looking at the others
		if n := v.AsList().Len(); n > 0 {
			return v.AsList().Items[at(n)], nil
		}
		return jinja.Undefined(), nil
	}
	items, err := g.items(args[0])
	if err != nil || len(items) == 0 {
		return jinja.Undefined(), err
	}
	return items[at(len(items))], nil
}

func (g *guard) defaultTo(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "default_value", "boolean")
	if err != nil {
		return jinja.Undefined(), err
	}
	if args[0].IsUndefined() || opts[1].IsTruthy() && !args[0].IsTruthy() {
		if opts[0].IsUndefined() && len(args) < 2 {
			return jinja.NewString(""), nil
		}
		return opts[0], nil
	}
	return args[0], nil
}

// mapOf is map(attribute='x'); mapping by another filter is not supported.
func (g *guard) mapOf(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args[:1], kw, "attribute", "default")
	if err != nil {
		return jinja.Undefined(), err
	}
	if len(args) > 1 || !opts[0].IsString() {
		return jinja.Undefined(), g.failf("map is understood with attribute='name' only")
	}
	items, err := g.items(args[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	mapped := make(values, len(items))
	for i, item := range items {
		if mapped[i], err = g.item(values{item, opts[0]}); err != nil {
			return jinja.Undefined(), err
		}
		if mapped[i].IsUndefined() {
			mapped[i] = opts[1]
		}
	}
	return jinja.NewList(mapped), nil
}
