package chat

import (
	"math"
	"strings"

	"github.com/ardanlabs/jinja"
)

// tojson is Python's json.dumps, without escapes for what is not ASCII.
func (g *guard) tojson(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "ensure_ascii", "indent", "separators", "sort_keys")
	if err != nil {
		return jinja.Undefined(), err
	}
	j := jsonWriter{guard: g, indent: -1, comma: ", ", colon: ": ", ascii: opts[0].IsTruthy(), sorted: opts[3].IsTruthy()}
	if !opts[1].IsUndefined() && !opts[1].IsNone() {
		n, err := g.integer(opts[1], 0)
		if err != nil {
			return jinja.Undefined(), err
		}
		if n > 64 {
			return jinja.Undefined(), g.failf("an indent of %d, at most 64 are understood", n)
		}
		j.indent, j.comma = int(max(n, 0)), ","
	}
	if s := opts[2]; s.IsList() && s.AsList().Len() == 2 {
		if j.comma, err = g.print(s.AsList().Items[0]); err != nil {
			return jinja.Undefined(), err
		}
		if j.colon, err = g.print(s.AsList().Items[1]); err != nil {
			return jinja.Undefined(), err
		}
		if len(j.comma)+len(j.colon) > 64 {
			return jinja.Undefined(), g.failf("separators of more than 64 bytes")
		}
	}
	if err := j.write(args[0], 0); err != nil {
		return jinja.Undefined(), err
	}
	return jinja.NewString(j.b.String()), nil
}

type jsonWriter struct {
	guard        *guard
	b            strings.Builder
	indent       int // -1: all on one line
	comma, colon string
	ascii        bool
	sorted       bool
}

func (j *jsonWriter) write(v jinja.Value, depth int) error {
	g := j.guard
	if depth > MaxDepth {
		return g.failf("more than %d lists in each other", MaxDepth)
	}
	if j.b.Len() > MaxOutput {
		return g.failf("a text of more than %d bytes", MaxOutput)
	}
	if err := g.spend(1 + depth); err != nil {
		return err
	}
	switch {
	case v.IsNone():
		j.b.WriteString("null")
	case v.IsBool() && v.AsBool():
		j.b.WriteString("true")
	case v.IsBool():
		j.b.WriteString("false")
	case v.IsInt():
		return g.repr(&j.b, v, 0)
	case v.IsFloat():
		if math.IsNaN(v.AsFloat()) || math.IsInf(v.AsFloat(), 0) {
			return g.failf("%v is not JSON", v.AsFloat())
		}
		return g.repr(&j.b, v, 0)
	case v.IsString():
		return j.string(v.AsString())
	case v.IsList():
		return j.nested('[', ']', v.AsList().Len(), depth, func(i int) error {
			return j.write(v.AsList().Items[i], depth+1)
		})
	case v.IsDict():
		keys := v.AsDict().Keys
		if j.sorted {
			keys = sortedKeys(v.AsDict().Data)
		}
		return j.nested('{', '}', len(keys), depth, func(i int) error {
			if err := j.string(keys[i]); err != nil {
				return err
			}
			j.b.WriteString(j.colon)
			return j.write(v.AsDict().Data[keys[i]], depth+1)
		})
	default:
		return g.failf("%s is not JSON", kindOf(v))
	}
	return nil
}

func (j *jsonWriter) nested(open, close byte, n, depth int, item func(i int) error) error {
	j.b.WriteByte(open)
	for i := range n {
		if i > 0 {
			j.b.WriteString(j.comma)
		}
		j.newline(depth + 1)
		if err := item(i); err != nil {
			return err
		}
	}
	if n > 0 {
		j.newline(depth)
	}
	j.b.WriteByte(close)
	return nil
}

func (j *jsonWriter) newline(depth int) {
	if j.indent >= 0 {
		j.b.WriteByte('\n')
		j.b.WriteString(strings.Repeat(" ", j.indent*depth))
	}
}

func (j *jsonWriter) string(s string) error {
	if err := j.guard.spendText(len(s)); err != nil {
		return err
	}
	j.b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			j.b.WriteByte('\\')
			j.b.WriteRune(r)
		case r < 0x20:
			if i := strings.IndexRune("\b\f\n\r\t", r); i >= 0 {
				j.b.WriteString(`\` + "bfnrt"[i:i+1])
			} else {
				j.b.WriteString(`\u` + hex(r, 4))
			}
		case r > 0xffff && j.ascii:
			r -= 0x10000
			j.b.WriteString(`\u` + hex(0xd800+r>>10, 4) + `\u` + hex(0xdc00+r&0x3ff, 4))
		case r >= 0x7f && j.ascii:
			j.b.WriteString(`\u` + hex(r, 4))
		default:
			j.b.WriteRune(r)
		}
	}
	j.b.WriteByte('"')
	return nil
}
