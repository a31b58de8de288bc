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
	look string
	most int // arguments that the library's filter understands
}

// filters is every filter that templates may use.
var filters = map[string]filter{
	"abs": {look: "__text"}, "count": {look: "__text"}, "length": {look: "__text"}, "safe": {look: "__text"},
	"items": {look: "__made"}, "lower": {look: "__string"}, "reverse": {look: "__made"},
	"trim": {look: "__string", most: 1}, "wordcount": {look: "__string"},

	"batch": {}, "capitalize": {}, "d": {}, "default": {}, "dictsort": {}, "e": {}, "escape": {}, "first": {}, "float": {},
	"indent": {}, "int": {}, "join": {}, "last": {}, "list": {}, "map": {}, "max": {}, "min": {}, "reject": {}, "rejectattr": {},
	"replace": {}, "round": {}, "select": {}, "selectattr": {}, "sort": {}, "string": {}, "sum": {}, "title": {}, "tojson": {},
	"unique": {}, "upper": {},
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
	"count": plain, "endswith": plain, "find": plain, "get": plain, "items": plain, "keys": plain,
	"lower": plain, "lstrip": plain, "rstrip": plain, "startswith": plain, "strip": plain, "title": plain, "values": plain,
	"capitalize": guarded, "format": guarded, "replace": guarded, "split": guarded, "upper": guarded,
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
			if item, err = g.attribute(item, opts[1]); err != nil {
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
	if len(args) > 1 || opts[0].IsUndefined() {
		return jinja.Undefined(), g.failf("map is understood with attribute='name' only")
	}
	if !args[0].IsTruthy() {
		return jinja.NewList(nil), nil
	}
	items, err := g.items(args[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	mapped := make(values, len(items))
	for i, item := range items {
		if mapped[i], err = g.attribute(item, opts[0]); err != nil {
			return jinja.Undefined(), err
		}
		if mapped[i].IsUndefined() {
			mapped[i] = opts[1]
		}
	}
	return jinja.NewList(mapped), nil
}

// batch cuts a list into lists of so many items.
func (g *guard) batch(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "linecount", "fill_with")
	if err != nil {
		return jinja.Undefined(), err
	}
	size, err := g.integer(opts[0], 0)
	if err != nil {
		return jinja.Undefined(), err
	}
	if size < 1 || size > MaxSteps {
		return jinja.Undefined(), g.failf("batches of %d items", size)
	}
	items, err := g.items(args[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	var batches values
	for batch := range slices.Chunk(items, int(size)) {
		batch = slices.Clone(batch)
		if missing := int(size) - len(batch); missing > 0 && !opts[1].IsUndefined() && !opts[1].IsNone() {
			if err := g.spend(missing); err != nil {
				return jinja.Undefined(), err
			}
			batch = append(batch, slices.Repeat(values{opts[1]}, missing)...)
		}
		batches = append(batches, jinja.NewList(batch))
	}
	return jinja.NewList(batches), nil
}

// attribute looks up the names and numbers of a path like a.0.b.
func (g *guard) attribute(v, path jinja.Value) (jinja.Value, error) {
	if path.IsInt() {
		return g.item(values{v, path})
	}
	if !path.IsString() {
		return v, g.failf("%s is no attribute", kindOf(path))
	}
	for name := range strings.SplitSeq(path.AsString(), ".") {
		key := jinja.NewString(name)
		if v.IsList() {
			key = digits(key)
		}
		var err error
		if v, err = g.item(values{v, key}); err != nil {
			return v, err
		}
	}
	return v, nil
}
