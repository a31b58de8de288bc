package chat

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/ardanlabs/jinja"
)

// print gives the text of a value, as Python's str does.
func (g *guard) print(v jinja.Value) (string, error) {
	if v.IsString() {
		return v.AsString(), g.spendText(len(v.AsString()))
	}
	if v.IsUndefined() {
		return "", nil
	}
	var b strings.Builder
	err := g.repr(&b, v, 0)
	return b.String(), err
}

// repr writes a value as Python's repr does.
func (g *guard) repr(b *strings.Builder, v jinja.Value, depth int) error {
	if depth > MaxDepth {
		return g.failf("more than %d lists in each other", MaxDepth)
	}
	before := b.Len()
	switch {
	case v.IsUndefined():
		b.WriteString("Undefined")
	case v.IsNone():
		b.WriteString("None")
	case v.IsBool() && v.AsBool():
		b.WriteString("True")
	case v.IsBool():
		b.WriteString("False")
	case v.IsInt():
		b.WriteString(strconv.FormatInt(v.AsInt(), 10))
	case v.IsFloat():
		b.WriteString(formatFloat(v.AsFloat()))
	case v.IsString():
		reprString(b, v.AsString())
	case v.IsList():
		b.WriteByte('[')
		for i, item := range v.AsList().Items {
			if i > 0 {
				b.WriteString(", ")
			}
			if err := g.repr(b, item, depth+1); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return g.spend(1)
	case v.IsDict():
		b.WriteByte('{')
		for i, key := range v.AsDict().Keys {
			if i > 0 {
				b.WriteString(", ")
			}
			reprString(b, key)
			b.WriteString(": ")
			if err := g.repr(b, v.AsDict().Data[key], depth+1); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return g.spend(1)
	default:
		b.WriteString("<function>")
	}
	if b.Len() > MaxOutput {
		return g.spendText(b.Len())
	}
	return g.spendText(b.Len() - before)
}

// reprString writes a string literal, in the quotes that need no escapes if
// there are such.
func reprString(b *strings.Builder, s string) {
	quote := '\''
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	b.WriteRune(quote)
	for _, r := range s {
		switch {
		case r == quote || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			b.WriteString(`\x` + hex(r, 2))
		case r < 0x10000:
			b.WriteString(`\u` + hex(r, 4))
		default:
			b.WriteString(`\U` + hex(r, 8))
		}
	}
	b.WriteRune(quote)
}

func hex(r rune, digits int) string {
	s := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", digits-len(s)) + s
}

// formatFloat writes a number as Python does: the shortest digits that give it
// back, always with a point or an exponent.
func formatFloat(f float64) string {
	s := strconv.FormatFloat(f, 'e', -1, 64)
	exponent, err := strconv.Atoi(s[strings.IndexByte(s, 'e')+1:])
	if err != nil || exponent < -4 || exponent >= 16 {
		return s
	}
	s = strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

func sortedKeys(m map[string]jinja.Value) []string { return slices.Sorted(maps.Keys(m)) }
