package chat

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// token is a word of an expression or statement.
type token struct {
	kind tokenKind
	text string // of a string: its value
	line int
}

type tokenKind int

const (
	tokEnd tokenKind = iota
	tokName
	tokString
	tokInt
	tokFloat
	tokOp
)

func (t token) String() string {
	switch t.kind {
	case tokEnd:
		return "the end of the tag"
	case tokString:
		return "a string"
	}
	return fmt.Sprintf("%.40q", t.text)
}

// operators by falling length: the first that fits is taken.
var operators = []string{
	"//", "**", "==", "!=", ">=", "<=",
	"+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",",
}

// tag reads the tokens of a tag and its end, which does not count inside
// brackets.
func (s *scanner) tag(closer string) ([]token, error) {
	opened := s.line
	var tokens []token
	var brackets []byte
	for {
		rest := strings.TrimLeftFunc(s.src[s.at:], isSpace)
		s.advance(len(s.src) - len(rest))
		if rest == "" {
			return nil, failf(opened, "a tag is not closed with %s", closer)
		}
		if len(brackets) == 0 && tagEnds(rest, closer) {
			tokens = append(tokens, token{kind: tokEnd, line: s.line})
			s.close(2, closer == "%}")
			return tokens, nil
		}
		t, size, err := s.token(rest)
		if err != nil {
			return nil, err
		}
		if t.kind == tokOp {
			switch c := t.text[0]; c {
			case '(', '[', '{':
				brackets = append(brackets, c)
				if len(brackets) > MaxDepth {
					return nil, failf(s.line, "more than %d brackets in each other", MaxDepth)
				}
			case ')', ']', '}':
				if n := len(brackets) - 1; n < 0 || strings.IndexByte("([{", brackets[n]) != strings.IndexByte(")]}", c) {
					return nil, failf(s.line, "unexpected %q", c)
				} else {
					brackets = brackets[:n]
				}
			}
		}
		tokens = append(tokens, t)
		s.advance(s.at + size)
	}
}

func tagEnds(rest, closer string) bool {
	if rest[0] == '-' || rest[0] == '+' && closer == "%}" {
		rest = rest[1:]
	}
	return strings.HasPrefix(rest, closer)
}

// token reads the token that rest begins with, and gives its size.
func (s *scanner) token(rest string) (token, int, error) {
	t := token{line: s.line}
	c := rest[0]
	switch {
	case c == '\'' || c == '"':
		for i := 1; i < len(rest); i++ {
			switch rest[i] {
			case '\\':
				i++
			case c:
				value, err := unescape(rest[1:i])
				if err != nil {
					return t, 0, failf(s.line, "%v", err)
				}
				t.kind, t.text = tokString, value
				return t, i + 1, nil
			}
		}
		return t, 0, failf(s.line, "a string is not closed")
	case c >= '0' && c <= '9':
		return s.number(rest)
	}
	size := 0
	for i, r := range rest {
		if r != '_' && !unicode.IsLetter(r) && (i == 0 || !unicode.IsDigit(r)) {
			break
		}
		size = i + utf8.RuneLen(r)
	}
	if size > 0 {
		t.kind, t.text = tokName, rest[:size]
		for _, r := range t.text {
			if r >= utf8.RuneSelf {
				return t, 0, failf(s.line, "the name %.40q is not ASCII", t.text)
			}
		}
		return t, size, nil
	}
	for _, o := range operators {
		if strings.HasPrefix(rest, o) {
			t.kind, t.text = tokOp, o
			return t, len(o), nil
		}
	}
	r, _ := utf8.DecodeRuneInString(rest)
	return t, 0, failf(s.line, "unexpected character %q", r)
}

// number reads digits with single underscores between them, and what makes
// them a float.
func (s *scanner) number(rest string) (token, int, error) {
	t := token{kind: tokInt, line: s.line}
	digits := func(at int) int {
		i := at
		for i < len(rest) && (rest[i] >= '0' && rest[i] <= '9' || rest[i] == '_' && i > at && i+1 < len(rest) && rest[i+1] >= '0' && rest[i+1] <= '9') {
			i++
		}
		return i
	}
	size := digits(0)
	if size+1 < len(rest) && rest[size] == '.' && digits(size+1) > size+1 {
		t.kind, size = tokFloat, digits(size+1)
	}
	if size < len(rest) && (rest[size] == 'e' || rest[size] == 'E') {
		from := size + 1
		if from < len(rest) && (rest[from] == '+' || rest[from] == '-') {
			from++
		}
		if e := digits(from); e > from {
			t.kind, size = tokFloat, e
		}
	}
	t.text = strings.ReplaceAll(rest[:size], "_", "")
	if t.kind == tokInt {
		n, err := strconv.ParseInt(t.text, 10, 64)
		if err != nil {
			return t, 0, failf(s.line, "the number %.40s is too large", t.text)
		}
		t.text = strconv.FormatInt(n, 10)
		return t, size, nil
	}
	if _, err := strconv.ParseFloat(t.text, 64); err != nil {
		return t, 0, failf(s.line, "the number %.40s is too large", t.text)
	}
	return t, size, nil
}

// unescape gives the value of a string literal, by Python's rules: a backslash
// before anything without a meaning stays.
func unescape(s string) (string, error) {
	if strings.IndexByte(s, '\\') < 0 {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		i++ // a literal never ends with a lone backslash
		size, base := 0, 16
		switch c := s[i]; c {
		case '\n':
		case '\\', '\'', '"':
			b.WriteByte(c)
		case 'a', 'b', 'f', 'n', 'r', 't', 'v':
			b.WriteByte("\a\b\f\n\r\t\v"[strings.IndexByte("abfnrtv", c)])
		case 'x':
			size = 2
		case 'u':
			size = 4
		case 'U':
			size = 8
		case '0', '1', '2', '3', '4', '5', '6', '7':
			base, size = 8, 1
			for size < 3 && i+size < len(s) && s[i+size] >= '0' && s[i+size] <= '7' {
				size++
			}
			i-- // the digits begin here
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
		if size > 0 {
			from := i + 1
			if from+size > len(s) {
				return "", fmt.Errorf("an escape in a string is cut off")
			}
			n, err := strconv.ParseUint(s[from:from+size], base, 32)
			if err != nil || !utf8.ValidRune(rune(n)) {
				return "", fmt.Errorf("the escape \\%.10s in a string is not a character", s[i:from+size])
			}
			b.WriteRune(rune(n))
			i += size
		}
	}
	return b.String(), nil
}
