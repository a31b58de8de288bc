package gguf_test

import (
	"os"
	"path/filepath"
	"testing"

	"kigo/engine/gguf"
)

// BenchmarkParse parses the headers of the real models that are there.
func BenchmarkParse(b *testing.B) {
	for _, name := range []string{
		"SmolLM2-135M-Instruct.Q4_1.gguf",
		"Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
		"vocab/ggml-vocab-gemma-4.gguf",
	} {
		b.Run(filepath.Base(name), func(b *testing.B) {
			file, err := os.Open(filepath.Join(modelsDir(b), name))
			if err != nil {
				b.Skip(err)
			}
			defer file.Close()
			info, err := file.Stat()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				f, err := gguf.Parse(file, info.Size(), gguf.Limits{})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(f.DataOffset)
			}
		})
	}
}

// modelsDir returns the ignored folder models beside go.mod.
func modelsDir(tb testing.TB) string {
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "models")
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("no go.mod above the test")
		}
		dir = parent
	}
}
