// Package tokenizer turns text into token ids and back, exactly as the
// tokenizer that a model was trained with does.
//
// It holds byte-level BPE (GGUF's tokenizer.ggml.model "gpt2"): text is cut
// into words by a pre-tokenizer ([PreTokenizers] lists them), and the bytes of
// each word are merged pair by pair in the order in which the merges were
// learned. Nothing is normalized, so for every byte that has a token
// Decode(Encode(x)) = x, valid UTF-8 or not; see [Tokenizer.FirstUnencodable]
// for vocabularies that lack some bytes.
//
// A Tokenizer is immutable and safe for concurrent use.
package tokenizer

import "errors"

var (
	// ErrUnsupported reports a tokenizer model or pre-tokenizer that is not
	// in this package's tables.
	ErrUnsupported = errors.New("unsupported tokenizer")
	// ErrVocabulary reports a malformed vocabulary.
	ErrVocabulary = errors.New("malformed vocabulary")
	// ErrToken reports a token id outside the vocabulary.
	ErrToken = errors.New("no such token")
)
