package tokenizer

import (
	"bytes"
	"fmt"
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

// BenchmarkHostile encodes texts that a careless tokenizer is quadratic in, of one
// and two mebibytes: the second takes at most 2.3 times as long as the first.
// TestLinearOnHostileText counts the same as steps.
func BenchmarkHostile(b *testing.B) {
	for _, name := range []string{smolLM2, qwen} {
		tok := load(b, name)
		for kind, unit := range map[string]string{
			"a": "a", "spaces": " ", "carets": "^", "underscores": "_", "CJK": "漢", "combining marks": "\u0301", "line ends": "\n ",
			"special": "<|im_start", "no UTF-8": "\xff",
		} {
			for _, size := range []int{1 << 20, 1 << 21} {
				text := bytes.Repeat([]byte(unit), size/len(unit))
				b.Run(fmt.Sprintf("%s/%s/%d", tok.Name(), kind, size>>20), func(b *testing.B) {
					b.SetBytes(int64(len(text)))
					for b.Loop() {
						tok.Encode(text, EncodeOptions{ParseSpecial: true})
					}
				})
			}
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
