package tokenizer

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// FuzzRoundTrip: decode(encode(x)) = x under two real vocabularies, whatever
// the bytes, and plain text never becomes a control token.
func FuzzRoundTrip(f *testing.F) {
	for _, s := range []string{
		"", "a", "Hello, world!\n", "it's 1984's'LL 'ſt", "  \n\n  x\t\ty ", "<|im_start|>user\n<|im_end|>",
		"漢字 かな 한글 العربية हिन्दी", "e\u0301\u200d👩‍💻", "\xff\xfe\xc3", "\x00\x04\x7f", "[PAD151936]",
	} {
		f.Add([]byte(s))
	}
	toks := []*Tokenizer{load(f, smolLM2), load(f, qwen)}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, tok := range toks {
			checkRoundTrip(t, tok, text)
			for _, id := range tok.Encode(text, EncodeOptions{}) {
				if typ := tok.typeOf(id); typ == Control || typ == Unknown {
					t.Fatalf("%s: %q gives the special token %d", tok.Name(), text, id)
				}
			}
		}
	})
}

// FuzzVocabulary builds tokenizers from hostile vocabularies: tokens and
// merges are the lines of texts, types the bytes of another.
func FuzzVocabulary(f *testing.F) {
	letters := strings.Join(alphabetTokens(), "\n")
	f.Add("gpt-2", letters+"\nab\nabc\n<s>", "", "a b\nab c", int32(3), "abc<s>")
	f.Add("llama-bpe", letters+"\nĠĠ\nhello", strings.Repeat("\x01", 257)+"\x04", "Ġ Ġ", int32(-1), "hello  hello")
	f.Add("qwen2", "a\nb\n\nab", "\x01\x01\x05\x03", "a b", int32(0), "aabab")
	f.Add("smollm", "a\na", "\x01", " ", int32(9), "")
	f.Fuzz(func(t *testing.T, pre, tokens, types, merges string, bos int32, text string) {
		v := Vocabulary{Model: "gpt2", Pre: pre, Tokens: strings.Split(tokens, "\n"), BOS: &bos, EOS: &bos}
		if bos < 0 {
			v.BOS, v.EOS = nil, nil
		}
		if merges != "" {
			v.Merges = strings.Split(merges, "\n")
		}
		if types != "" {
			for i := range len(types) {
				v.Types = append(v.Types, TokenType(types[i]))
			}
		}
		tok, err := New(v)
		if err != nil {
			if !errors.Is(err, ErrVocabulary) && !errors.Is(err, ErrUnsupported) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		for _, opt := range []EncodeOptions{{}, {AddSpecial: true, ParseSpecial: true}} {
			ids := tok.Encode([]byte(text), opt)
			if _, err := tok.Decode(ids, true); err != nil {
				t.Fatal(err)
			}
			if !opt.ParseSpecial && slices.ContainsFunc(ids, func(id int32) bool { return tok.typeOf(id) == Unknown }) {
				t.Fatalf("%q gives an unknown token", text)
			}
		}
	})
}
