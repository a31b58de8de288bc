package chat

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ardanlabs/jinja"
)

// replace is both the filter and the method.
func (g *guard) replace(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "old", "new", "count")
	if err != nil {
		return jinja.Undefined(), err
	}
	s, err := g.print(args[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	old, err := g.print(opts[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	with, err := g.print(opts[1])
	if err != nil {
		return jinja.Undefined(), err
	}
	count, err := g.integer(opts[2], -1)
	if err != nil {
		return jinja.Undefined(), err
	}
	n := strings.Count(s, old)
	if count >= 0 {
		n = int(min(int64(n), count))
	}
	if len(with) > 0 && n > (2*MaxOutput)/len(with) {
		return jinja.Undefined(), g.failf("a text of more than %d bytes", MaxOutput)
	}
	if err := g.spendText(len(s) + n*(len(with)-len(old))); err != nil {
		return jinja.Undefined(), err
	}
	return jinja.NewString(strings.Replace(s, old, with, n)), nil
}

func (g *guard) split(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "sep", "maxsplit")
	if err != nil {
		return jinja.Undefined(), err
	}
	if !args[0].IsString() {
		return jinja.Undefined(), g.failf("%s cannot be split", kindOf(args[0]))
	}
	s := args[0].AsString()
	if err := g.spendText(len(s)); err != nil {
		return jinja.Undefined(), err
	}
	most, err := g.integer(opts[1], -1)
	if err != nil {
		return jinja.Undefined(), err
	}
	var parts []string
	switch sep := opts[0]; {
	case sep.IsUndefined() || sep.IsNone():
		if parts, err = g.fields(s, most); err != nil {
			return jinja.Undefined(), err
		}
	case !sep.IsString() || sep.AsString() == "":
		return jinja.Undefined(), g.failf("a text cannot be split at %s without characters", kindOf(sep))
	default:
		n := strings.Count(s, sep.AsString())
		if most >= 0 {
			n = int(min(int64(n), most))
		}
		if err := g.spend(n); err != nil {
			return jinja.Undefined(), err
		}
		parts = strings.SplitN(s, sep.AsString(), n+1)
	}
	items := make(values, len(parts))
	for i, p := range parts {
		items[i] = jinja.NewString(p)
	}
	return jinja.NewList(items), nil
}

// fields cuts at white space, at most so often if most is not negative.
func (g *guard) fields(s string, most int64) ([]string, error) {
	var parts []string
	for s = strings.TrimLeftFunc(s, isSpace); s != ""; {
		if err := g.spend(1); err != nil {
			return nil, err
		}
		end := strings.IndexFunc(s, isSpace)
		if end < 0 || int64(len(parts)) == most {
			parts = append(parts, s)
			break
		}
		parts = append(parts, s[:end])
		s = strings.TrimLeftFunc(s[end:], isSpace)
	}
	return parts, nil
}

// format fills the places {} and {0} of a text.
func (g *guard) format(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	if !args[0].IsString() {
		return jinja.Undefined(), g.failf("%s cannot be formatted", kindOf(args[0]))
	}
	s := args[0].AsString()
	var b strings.Builder
	next := 0
	for {
		plain, rest, found := cutAny(s, "{}")
		b.WriteString(plain)
		if err := g.spendText(b.Len()); err != nil {
			return jinja.Undefined(), err
		}
		if !found {
			return jinja.NewString(b.String()), nil
		}
		if len(rest) > 1 && rest[1] == rest[0] { // {{ is a brace
			b.WriteByte(rest[0])
			s = rest[2:]
			continue
		}
		name, after, closed := strings.Cut(rest[1:], "}")
		if rest[0] == '}' || !closed {
			return jinja.Undefined(), g.failf("a single brace in a format")
		}
		var v jinja.Value
		switch at, isNumber := smallNumber(name); {
		case name == "":
			v = arg(args, next+1)
			next++
		case isNumber:
			v = arg(args, at+1)
		default:
			v = kw[name]
		}
		if v.IsUndefined() {
			return jinja.Undefined(), g.failf("nothing to put at {%.40s} in a format", name)
		}
		text, err := g.print(v)
		if err != nil {
			return jinja.Undefined(), err
		}
		b.WriteString(text)
		s = after
	}
}

func cutAny(s, chars string) (before, from string, found bool) {
	if i := strings.IndexAny(s, chars); i >= 0 {
		return s[:i], s[i:], true
	}
	return s, "", false
}

func smallNumber(s string) (n int, ok bool) {
	if s == "" || len(s) > 4 {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, true
}

func (g *guard) stringOf(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	if _, err := g.options(args, kw); err != nil {
		return jinja.Undefined(), err
	}
	s, err := g.print(args[0])
	return jinja.NewString(s), err
}

// upperSpecial has the letters in common use whose capital is several letters,
// which Go's mapping of one letter to one leaves out.
var upperSpecial = strings.NewReplacer("ß", "SS", "ﬀ", "FF", "ﬁ", "FI", "ﬂ", "FL", "ﬃ", "FFI", "ﬄ", "FFL", "ﬅ", "ST", "ﬆ", "ST", "ŉ", "ʼN", "ǰ", "J̌", "և", "ԵՒ")

func (g *guard) upper(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	if _, err := g.options(args, kw); err != nil {
		return jinja.Undefined(), err
	}
	s, err := g.print(args[0])
	return jinja.NewString(upperSpecial.Replace(strings.ToUpper(s))), err
}

func (g *guard) capitalize(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	if _, err := g.options(args, kw); err != nil {
		return jinja.Undefined(), err
	}
	s, err := g.print(args[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	_, size := utf8.DecodeRuneInString(s)
	return jinja.NewString(strings.ToTitle(s[:size]) + strings.ToLower(s[size:])), nil
}

var htmlEscapes = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;")

func (g *guard) escape(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	if _, err := g.options(args, kw); err != nil {
		return jinja.Undefined(), err
	}
	s, err := g.print(args[0])
	if err == nil {
		s = htmlEscapes.Replace(s)
		err = g.spendText(len(s))
	}
	return jinja.NewString(s), err
}

// title makes capitals of the letters at the start, after white space, and
// after some punctuation; and small letters of the others.
func (g *guard) title(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	if _, err := g.options(args, kw); err != nil {
		return jinja.Undefined(), err
	}
	s, err := g.print(args[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	var b strings.Builder
	begins := true
	for _, r := range s {
		switch {
		case isSpace(r) || strings.ContainsRune("-({[<", r):
			b.WriteRune(r)
			begins = true
			continue
		case begins:
			b.WriteString(upperSpecial.Replace(strings.ToUpper(string(r))))
		default:
			b.WriteRune(unicode.ToLower(r))
		}
		begins = false
	}
	return jinja.NewString(b.String()), nil
}

func (g *guard) indent(args values, kw map[string]jinja.Value) (jinja.Value, error) {
	opts, err := g.options(args, kw, "width", "first", "blank")
	if err != nil {
		return jinja.Undefined(), err
	}
	s, err := g.print(args[0])
	if err != nil {
		return jinja.Undefined(), err
	}
	pad := ""
	if opts[0].IsString() {
		pad = opts[0].AsString()
	} else {
		width, err := g.integer(opts[0], 4)
		if err != nil {
			return jinja.Undefined(), err
		}
		if width > MaxOutput {
			return jinja.Undefined(), g.failf("a text of more than %d bytes", MaxOutput)
		}
		pad = strings.Repeat(" ", int(max(width, 0)))
	}
	lines := strings.Count(s, "\n") + 1
	if len(pad) > 0 && lines > (2*MaxOutput)/len(pad) {
		return jinja.Undefined(), g.failf("a text of more than %d bytes", MaxOutput)
	}
	if err := g.spendText(len(s) + lines*len(pad)); err != nil {
		return jinja.Undefined(), err
	}
	var b strings.Builder
	for i, line := range strings.Split(s, "\n") {
		if i > 0 {
			b.WriteByte('\n')
		}
		if i == 0 && opts[1].IsTruthy() || i > 0 && (line != "" || opts[2].IsTruthy()) {
			b.WriteString(pad)
		}
		b.WriteString(line)
	}
	return jinja.NewString(b.String()), nil
}
