package chat

import (
	"fmt"
	"strings"
	"unicode"
)

// part is a piece of a template: text, {{ an expression }} or {% a statement %}.
type part struct {
	kind   partKind
	line   int
	text   string  // of text
	tokens []token // of the others, ended by one of kind end
}

type partKind int

const (
	textPart partKind = iota
	outputPart
	statementPart
)

func failf(line int, format string, args ...any) error {
	return fmt.Errorf("%w: line %d: %s", ErrTemplate, line, fmt.Sprintf(format, args...))
}

// scanner cuts a template into parts, with white space treated as jinja2 does
// with trim_blocks and lstrip_blocks: a minus sign inside a tag takes all white
// space on its side; without one, a statement or comment takes the line end
// after it, and the white space before it if there is nothing else on the line.
type scanner struct {
	src       string
	at        int
	line      int
	lineStart bool // what was read last ended with a line end
	parts     []part
}

func scan(source string) ([]part, error) {
	source = strings.ReplaceAll(source, "\r\n", "\n")
	source = strings.ReplaceAll(source, "\r", "\n")
	s := &scanner{src: strings.TrimSuffix(source, "\n"), line: 1, lineStart: true}
	for s.at < len(s.src) {
		if err := s.next(); err != nil {
			return nil, err
		}
	}
	return s.parts, nil
}

// next reads text up to a tag, and the tag.
func (s *scanner) next() error {
	open := s.at
	for ; open < len(s.src); open++ {
		if s.src[open] == '{' && open+1 < len(s.src) && strings.IndexByte("{%#", s.src[open+1]) >= 0 {
			break
		}
	}
	if open == len(s.src) {
		s.addText(s.src[s.at:])
		s.at = open
		return nil
	}
	data, kind := s.src[s.at:open], s.src[open+1]
	inside := open + 2
	sign := byte(0)
	if inside < len(s.src) && (s.src[inside] == '-' || s.src[inside] == '+') {
		sign = s.src[inside]
		inside++
	}
	s.addText(s.trimBefore(data, sign, kind != '{'))
	s.advance(inside)
	line := s.line
	switch kind {
	case '#':
		end := strings.Index(s.src[s.at:], "#}")
		if end < 0 {
			return failf(line, "a comment is not closed")
		}
		close := s.at + end
		if end > 0 && (s.src[close-1] == '-' || s.src[close-1] == '+') {
			close--
		}
		s.advance(close)
		s.close(2, true)
		return nil
	case '{':
		tokens, err := s.tag("}}")
		s.parts = append(s.parts, part{kind: outputPart, line: line, tokens: tokens})
		return err
	}
	if rest, ok := keywordTag(s.src[s.at:], "raw"); ok {
		return s.raw(line, rest)
	}
	tokens, err := s.tag("%}")
	s.parts = append(s.parts, part{kind: statementPart, line: line, tokens: tokens})
	return err
}

// keywordTag reports whether s is the inside of a tag with one word and its
// end, and gives the offset of the end.
func keywordTag(s, word string) (end int, ok bool) {
	trimmed := strings.TrimLeftFunc(s, isSpace)
	rest, ok := strings.CutPrefix(trimmed, word)
	if !ok {
		return 0, false
	}
	rest = strings.TrimLeftFunc(rest, isSpace)
	for _, close := range []string{"%}", "-%}", "+%}"} {
		if strings.HasPrefix(rest, close) {
			return len(s) - len(rest), true
		}
	}
	return 0, false
}

// raw reads text up to {% endraw %}.
func (s *scanner) raw(line, end int) error {
	s.advance(s.at + end)
	s.close(2, false)
	for from := s.at; ; {
		i := strings.Index(s.src[from:], "{%")
		if i < 0 {
			return failf(line, "raw is not closed")
		}
		open := from + i
		inside, sign := open+2, byte(0)
		if inside < len(s.src) && (s.src[inside] == '-' || s.src[inside] == '+') {
			sign = s.src[inside]
			inside++
		}
		if end, ok := keywordTag(s.src[inside:], "endraw"); ok {
			s.addText(s.trimBefore(s.src[s.at:open], sign, true))
			s.advance(inside + end)
			s.close(2, true)
			return nil
		}
		from = open + 2
	}
}

func (s *scanner) addText(t string) {
	if t != "" {
		s.parts = append(s.parts, part{kind: textPart, line: s.line, text: t})
	}
}

// trimBefore takes off the white space that the tag after data asks for.
func (s *scanner) trimBefore(data string, sign byte, block bool) string {
	switch {
	case sign == '-':
		return strings.TrimRightFunc(data, isSpace)
	case sign == '+' || !block:
		return data
	}
	lineAt := strings.LastIndexByte(data, '\n') + 1
	if (lineAt > 0 || s.lineStart) && strings.TrimLeftFunc(data[lineAt:], isSpace) == "" {
		return data[:lineAt]
	}
	return data
}

// advance moves to an offset and counts the lines in between.
func (s *scanner) advance(to int) {
	s.line += strings.Count(s.src[s.at:to], "\n")
	s.at = to
}

// close reads the end of a tag: a sign, if there is one, size bytes, and the
// white space that goes with it.
func (s *scanner) close(size int, takesLineEnd bool) {
	end := s.at
	sign := s.src[end]
	if sign == '-' || sign == '+' {
		end++
	}
	end += size
	switch {
	case sign == '-':
		end = len(s.src) - len(strings.TrimLeftFunc(s.src[end:], isSpace))
	case sign != '+' && takesLineEnd && end < len(s.src) && s.src[end] == '\n':
		end++
	}
	s.lineStart = s.src[end-1] == '\n'
	s.advance(end)
}

// isSpace is Python's str.isspace.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }
