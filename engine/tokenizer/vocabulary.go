package tokenizer

import (
	"fmt"
	"unicode/utf8"
)

// TokenType says what a token is for, with GGUF's numbers
// (tokenizer.ggml.token_type).
type TokenType int32

// The types of tokens that a byte-level vocabulary may hold.
const (
	Normal      TokenType = 1 // text in the byte-level alphabet
	Unknown     TokenType = 2 // stands for what has no token; matched like Control
	Control     TokenType = 3 // steers the model; matched in text only on request
	UserDefined TokenType = 4 // raw text, matched before everything else
	Unused      TokenType = 5 // fills the vocabulary up; has no text
)

// Limits on a vocabulary's size, an order of magnitude above the largest in
// use. They keep ids in 32 bits and the tables within a few hundred MiB.
const (
	maxTokens       = 1 << 22
	maxMerges       = 1 << 23
	maxTextBytes    = 1 << 28 // of all the tokens together
	maxSpecialBytes = 512     // of one token that is looked for in text
)

// Vocabulary is what a tokenizer is made of, as a file states it. The zero
// value of an optional field means that the file does not say.
type Vocabulary struct {
	Model string // "gpt2"
	Pre   string // name of the pre-tokenizer

	Tokens []string    // text of each id, normal ones in the byte-level alphabet
	Types  []TokenType // of each id; nil means that all are normal
	Merges []string    // "left right", the most urgent first

	BOS, EOS, EOT, EOM *int32   // special tokens
	EndsOfFile         []*int32 // fill-in-the-middle padding, repository and file separators
	AddBOS, AddEOS     *bool    // what AddSpecial adds; nil means as the pre-tokenizer has it
}

// check reports the first thing wrong with v that can be seen without
// resolving texts to ids.
func (v *Vocabulary) check() error {
	n := len(v.Tokens)
	switch {
	case n == 0:
		return fmt.Errorf("%w: no tokens", ErrVocabulary)
	case n > maxTokens:
		return fmt.Errorf("%w: %d tokens, at most %d are allowed", ErrVocabulary, n, maxTokens)
	case len(v.Merges) > maxMerges:
		return fmt.Errorf("%w: %d merges, at most %d are allowed", ErrVocabulary, len(v.Merges), maxMerges)
	case v.Types != nil && len(v.Types) != n:
		return fmt.Errorf("%w: %d token types for %d tokens", ErrVocabulary, len(v.Types), n)
	}
	total := 0
	for i, text := range v.Tokens {
		total += len(text)
		switch typ := v.typeOf(int32(i)); typ {
		case Normal, Unused:
		case Unknown, Control, UserDefined:
			if len(text) > maxSpecialBytes {
				return fmt.Errorf("%w: token %d has type %d and %d bytes, at most %d are allowed", ErrVocabulary, i, typ, len(text), maxSpecialBytes)
			}
		default:
			return fmt.Errorf("%w: token %d (%s) has type %d, want 1 to 5", ErrVocabulary, i, quote(text), typ)
		}
	}
	if total > maxTextBytes {
		return fmt.Errorf("%w: the tokens have %d bytes of text, at most %d are allowed", ErrVocabulary, total, maxTextBytes)
	}
	special := []struct {
		name string
		id   *int32
	}{{"bos", v.BOS}, {"eos", v.EOS}, {"eot", v.EOT}, {"eom", v.EOM}}
	for _, id := range v.EndsOfFile {
		special = append(special, struct {
			name string
			id   *int32
		}{"fill-in-the-middle", id})
	}
	for _, s := range special {
		if s.id != nil && (*s.id < 0 || int(*s.id) >= n) {
			return fmt.Errorf("%w: the %s token is %d, outside the %d tokens", ErrVocabulary, s.name, *s.id, n)
		}
	}
	if v.AddBOS != nil && *v.AddBOS && v.BOS == nil {
		return fmt.Errorf("%w: a bos token is to be added, but there is none", ErrVocabulary)
	}
	if v.AddEOS != nil && *v.AddEOS && v.EOS == nil {
		return fmt.Errorf("%w: an eos token is to be added, but there is none", ErrVocabulary)
	}
	return nil
}

func (v *Vocabulary) typeOf(id int32) TokenType {
	if v.Types == nil {
		return Normal
	}
	return v.Types[id]
}

// quote shows text from a file in an error message: escaped and not too long.
func quote(s string) string {
	const most = 48
	if len(s) <= most {
		return fmt.Sprintf("%q", s)
	}
	cut := most
	for cut > most-utf8.UTFMax && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%q…", s[:cut])
}
