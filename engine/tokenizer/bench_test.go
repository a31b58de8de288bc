package tokenizer

import (
	"bytes"
	"testing"
)

func BenchmarkFromGGUF(b *testing.B) {
	for _, name := range []string{smolLM2, qwen, "vocab/ggml-vocab-llama-bpe.gguf"} {
		b.Run(name, func(b *testing.B) {
			file := parseModel(b, name)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := FromGGUF(file); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	texts := map[string][]byte{
		"prose": bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog; it wasn't amused, in 1984 or since.\n"), 800),
		"code":  bytes.Repeat([]byte("func (t *Tokenizer) Encode(text []byte) []int32 {\n\tfor i := range 10 {\n\t\tx[i] += 17\n\t}\n}\n"), 800),
		"cjk":   bytes.Repeat([]byte("吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"), 800),
		"a":     bytes.Repeat([]byte("a"), 1<<16),
	}
	for _, name := range []string{smolLM2, qwen} {
		tok := load(b, name)
		for kind, text := range texts {
			b.Run(tok.Name()+"/"+kind, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					tok.Encode(text, EncodeOptions{})
				}
			})
		}
	}
}

func BenchmarkSplit(b *testing.B) {
	text := bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog; it wasn't amused, in 1984 or since.\n"), 800)
	for i := range preTokenizers {
		p := &preTokenizers[i]
		b.Run(p.name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				for rest := text; len(rest) > 0; {
					rest = rest[p.word(p, rest):]
				}
			}
		})
	}
}
