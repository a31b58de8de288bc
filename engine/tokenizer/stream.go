package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Stream turns tokens into text as they come, and never gives half a rune: the
// bytes of an unfinished one wait for the token that completes it. Bytes that
// can no longer become a rune turn into U+FFFD, one for each longest run that
// began like a rune (Unicode 16, section 3.9, "maximal subparts").
//
// The zero value is not ready; see [Tokenizer.NewStream]. Not for concurrent
// use.
type Stream struct {
	tokens  *Tokenizer
	special bool
	bytes   []byte // at most three between calls
}

// NewStream begins a text. With special, control tokens are text too.
func (t *Tokenizer) NewStream(special bool) *Stream {
	return &Stream{tokens: t, special: special}
}

// Push adds a token and gives the text that is complete, which may be none.
// ErrToken says that the id is not in the vocabulary.
func (s *Stream) Push(id int32) (string, error) {
	if id < 0 || int(id) >= s.tokens.VocabSize() {
		return "", fmt.Errorf("%w: id %d; the vocabulary has %d", ErrToken, id, s.tokens.VocabSize())
	}
	s.bytes = s.tokens.AppendPiece(s.bytes, id, s.special)
	return s.take(false), nil
}

// Flush ends the text: the bytes of an unfinished rune become U+FFFD. The
// stream is then ready for another text.
func (s *Stream) Flush() string { return s.take(true) }

// take gives the text that s.bytes begins with and keeps what is unfinished,
// unless at the end.
func (s *Stream) take(end bool) string {
	if utf8.Valid(s.bytes) { // as nearly always
		text := string(s.bytes)
		s.bytes = s.bytes[:0]
		return text
	}
	var text strings.Builder
	rest := s.bytes
	for len(rest) > 0 {
		r, size := utf8.DecodeRune(rest)
		if r == utf8.RuneError && size == 1 {
			if !end && !utf8.FullRune(rest) {
				break
			}
			size = subpart(rest)
			text.WriteRune(utf8.RuneError)
		} else {
			text.Write(rest[:size])
		}
		rest = rest[size:]
	}
	s.bytes = append(s.bytes[:0], rest...)
	return text.String()
}

// subpart gives the length of the longest beginning of b, which does not begin
// with a rune, that one could begin with; at least 1.
func subpart(b []byte) int {
	n := 1
	for n < len(b) && !utf8.FullRune(b[:n+1]) {
		n++
	}
	return n
}
