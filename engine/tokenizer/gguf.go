package tokenizer

import (
	"errors"
	"fmt"
	"math"

	"kigo/engine/gguf"
)

// FromGGUF builds the tokenizer that a file's metadata describes. The file may
// hold a vocabulary alone, for whatever architecture.
//
// ErrUnsupported names a tokenizer model or pre-tokenizer that is not
// understood; ErrVocabulary says what is malformed, metadata of the wrong type
// included.
func FromGGUF(f *gguf.File) (*Tokenizer, error) {
	r := reader{file: f}
	v := Vocabulary{
		Model:  r.text("tokenizer.ggml.model"),
		Pre:    r.text("tokenizer.ggml.pre"),
		Tokens: r.texts("tokenizer.ggml.tokens"),
		Types:  r.types("tokenizer.ggml.token_type"),
		Merges: r.texts("tokenizer.ggml.merges"),
		BOS:    r.id("tokenizer.ggml.bos_token_id"),
		EOS:    r.id("tokenizer.ggml.eos_token_id"),
		EOT:    r.id("tokenizer.ggml.eot_token_id"),
		EOM:    r.id("tokenizer.ggml.eom_token_id"),
		EndsOfFile: []*int32{
			r.id("tokenizer.ggml.fim_pad_token_id"),
			r.id("tokenizer.ggml.fim_rep_token_id"),
			r.id("tokenizer.ggml.fim_sep_token_id"),
		},
		AddBOS: r.flag("tokenizer.ggml.add_bos_token"),
		AddEOS: r.flag("tokenizer.ggml.add_eos_token"),
	}
	r.checkScores(len(v.Tokens))
	switch {
	case !r.seen["tokenizer.ggml.model"]:
		r.fail(errors.New("the file has no tokenizer (tokenizer.ggml.model)"))
	case v.Model == "gpt2" && !r.seen["tokenizer.ggml.merges"]:
		r.fail(errors.New("the file has no merges (tokenizer.ggml.merges)"))
	}
	if r.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrVocabulary, r.err)
	}
	return New(v)
}

// reader reads metadata and keeps the first error.
type reader struct {
	file *gguf.File
	seen map[string]bool
	err  error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func read[T any](r *reader, key string, get func(string) (T, bool, error)) (T, bool) {
	value, ok, err := get(key)
	if err != nil {
		r.fail(err)
	}
	if r.seen == nil {
		r.seen = map[string]bool{}
	}
	r.seen[key] = ok
	return value, ok && err == nil
}

func (r *reader) text(key string) string {
	s, _ := read(r, key, r.file.String)
	return s
}

func (r *reader) texts(key string) []string {
	s, _ := read(r, key, r.file.Strings)
	return s
}

func (r *reader) types(key string) []TokenType {
	ints, ok := read(r, key, r.file.Ints)
	if !ok {
		return nil
	}
	types := make([]TokenType, len(ints))
	for i, n := range ints {
		types[i] = TokenType(n)
	}
	return types
}

func (r *reader) id(key string) *int32 {
	n, ok := read(r, key, r.file.Uint)
	if !ok {
		return nil
	}
	id := int32(math.MaxInt32) // outside every vocabulary
	if n < math.MaxInt32 {
		id = int32(n)
	}
	return &id
}

func (r *reader) flag(key string) *bool {
	b, ok := read(r, key, r.file.Bool)
	if !ok {
		return nil
	}
	return &b
}

// checkScores checks an entry that byte-level BPE has no use for: a file that
// gets it wrong is not to be trusted with the rest.
func (r *reader) checkScores(tokens int) {
	const key = "tokenizer.ggml.scores"
	if scores, ok := read(r, key, r.file.Floats); ok && len(scores) != tokens {
		r.fail(fmt.Errorf("key %q: %d scores for %d tokens", key, len(scores), tokens))
	}
}
