package tokenizer

import (
	"bytes"
	"fmt"
)

// preTokenizer is one row of the table: how text is cut into words, and the
// settings that go with it in GGUF.
type preTokenizer struct {
	name string
	// word gives the length of the first word of text, which is not empty.
	// Text up to the end of a word may be looked at several times, but never
	// more than the run of white space that the word starts with or is
	// followed by: cutting up a text is linear in its length.
	word func(p *preTokenizer, text []byte) int

	digits       int  // numbers: at most so many in a word; 0 is any
	loneDigits   bool // every number is cut out before anything else is looked at
	joinMarks    bool // marks count as letters
	ignoreMerges bool // a word that is a token is taken whole, merges or not
	addBOS       bool // AddSpecial adds BOS unless the file says otherwise
}

// preTokenizers is every value of tokenizer.ggml.pre that is understood. A row
// is here if its words have been compared with reference vectors.
var preTokenizers = []preTokenizer{
	{name: "gpt-2", word: gpt2Word},
	{name: "mpt", word: gpt2Word},
	{name: "smollm", word: gpt2Word, loneDigits: true},
	{name: "starcoder", word: gpt2Word, loneDigits: true},
	{name: "refact", word: gpt2Word, loneDigits: true},
	{name: "command-r", word: gpt2Word, loneDigits: true},
	{name: "llama-bpe", word: llamaWord, digits: 3, ignoreMerges: true, addBOS: true},
	{name: "qwen2", word: llamaWord, digits: 1},
	{name: "qwen35", word: llamaWord, digits: 1, joinMarks: true},
}

// PreTokenizers lists the values of tokenizer.ggml.pre that are understood.
func PreTokenizers() []string {
	names := make([]string, len(preTokenizers))
	for i := range preTokenizers {
		names[i] = preTokenizers[i].name
	}
	return names
}

func findPreTokenizer(name string) (*preTokenizer, error) {
	if name == "" {
		return nil, fmt.Errorf("%w: the file names no pre-tokenizer (tokenizer.ggml.pre)", ErrUnsupported)
	}
	for i := range preTokenizers {
		if preTokenizers[i].name == name {
			return &preTokenizers[i], nil
		}
	}
	return nil, fmt.Errorf("%w: pre-tokenizer %s", ErrUnsupported, quote(name))
}

// gpt2Word cuts as GPT-2 does:
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//
// With loneDigits, each number is a word of its own, and the text between
// numbers is cut as if it stood alone: a number ends a run of white space as
// the end of the text does, and takes no space before it.
func gpt2Word(p *preTokenizer, text []byte) int {
	if n := contraction(text, false); n > 0 {
		return n
	}
	c, size := classAt(text)
	if c == number && p.loneDigits {
		return size
	}
	from := 0
	if text[0] == ' ' && len(text) > 1 {
		if next, n := classAt(text[1:]); next != space && (next != number || !p.loneDigits) {
			c, size, from = next, n, 1
		}
	}
	if c == space {
		n, last, after := spaceRun(text)
		if n == len(text) || n == last || after == number && p.loneDigits {
			return n
		}
		return n - last // the last one is left to the word that follows
	}
	return from + runLength(text[from:], gpt2Kind(c), size, gpt2Kind)
}

// gpt2Kind makes marks what GPT-2's pattern takes them for: other.
func gpt2Kind(c class) class {
	if c == mark {
		return other
	}
	return c
}

// joinedKind takes marks for letters.
func joinedKind(c class) class {
	if c == mark {
		return letter
	}
	return c
}

// llamaWord cuts as Llama 3 and Qwen2 do, which differ in the digits alone:
//
//	(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//
// With joinMarks, \p{L} becomes [\p{L}\p{M}], except in the optional character
// before the letters.
func llamaWord(p *preTokenizer, text []byte) int {
	if n := contraction(text, true); n > 0 {
		return n
	}
	kind := gpt2Kind
	if p.joinMarks {
		kind = joinedKind
	}
	c, size := classAt(text)
	c = kind(c)
	next, nextSize := other, 0
	if size < len(text) {
		next, nextSize = classAt(text[size:])
		next = kind(next)
	}
	first := text[0]
	switch {
	case c == letter:
		return runLength(text, letter, size, kind)
	case c == number:
		end := size
		for n := 1; n < p.digits && end < len(text); n++ {
			cl, sz := classAt(text[end:])
			if cl != number {
				break
			}
			end += sz
		}
		return end
	case next == letter && nextSize > 0 && first != '\r' && first != '\n':
		return size + runLength(text[size:], letter, nextSize, kind)
	case c == other:
		return lineEnds(text, runLength(text, other, size, kind))
	case first == ' ' && nextSize > 0 && next == other:
		return lineEnds(text, 1+runLength(text[1:], other, nextSize, kind))
	}
	n, last, _ := spaceRun(text)
	if i := bytes.LastIndexAny(text[:n], "\r\n"); i >= 0 {
		return i + 1
	}
	if n == len(text) || n == last {
		return n
	}
	return n - last
}

// runLength gives the length of the characters of one kind that text starts
// with; the first of them is known to be one and has size bytes.
func runLength(text []byte, want class, size int, kind func(class) class) int {
	end := size
	for end < len(text) {
		c, n := classAt(text[end:])
		if kind(c) != want {
			break
		}
		end += n
	}
	return end
}

// spaceRun gives the length of the white space that text starts with, the size
// of its last character, and the class of what follows.
func spaceRun(text []byte) (n, last int, after class) {
	for n < len(text) {
		c, size := classAt(text[n:])
		if c != space {
			return n, last, c
		}
		n, last = n+size, size
	}
	return n, last, space
}

// lineEnds extends a word that ends at end by the line ends that follow.
func lineEnds(text []byte, end int) int {
	for end < len(text) && (text[end] == '\r' || text[end] == '\n') {
		end++
	}
	return end
}

// contraction gives the length of the English contraction that text starts
// with, 0 if there is none. With fold, letter case is ignored by Unicode's
// simple folding, under which U+017F is an s (no other letter here has a
// folding beyond ASCII).
func contraction(text []byte, fold bool) int {
	if len(text) < 2 || text[0] != '\'' {
		return 0
	}
	if fold && text[1] == 0xc5 && len(text) > 2 && text[2] == 0xbf { // U+017F
		return 3
	}
	a, b := text[1], byte(0)
	if len(text) > 2 {
		b = text[2]
	}
	if fold {
		a, b = lower(a), lower(b)
	}
	switch {
	case a == 's' || a == 't' || a == 'm' || a == 'd':
		return 2
	case a == 'r' && b == 'e', a == 'v' && b == 'e', a == 'l' && b == 'l':
		return 3
	}
	return 0
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}
