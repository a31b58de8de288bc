package gguf_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"kigo/engine/gguf"
	"kigo/engine/gguf/gguftest"
	"kigo/engine/quant"
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

// BenchmarkRefuse is how long bad headers take to be refused: all of the hostile
// ones together, and large ones that are good up to their end.
func BenchmarkRefuse(b *testing.B) {
	run := func(name string, files ...gguftest.Raw) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for _, data := range files {
					if _, err := parse(data); err == nil {
						b.Fatal("a bad file was taken")
					}
				}
			}
		})
	}
	hostile := []gguftest.Raw{}
	for _, c := range gguftest.Hostile() {
		hostile = append(hostile, c.Data)
	}
	run("hostile", hostile...)
	keys := gguftest.Start(3, 0, 1<<16)
	for i := range 1 << 16 {
		keys = keys.KV(fmt.Sprintf("key %d", i%(1<<16-1)), gguf.Uint8).Zeros(1)
	}
	run("65,536 keys", keys)
	tensors := gguftest.Start(3, 1<<16, 0)
	for i := range 1 << 16 {
		tensors = tensors.Tensor(fmt.Sprintf("t%d", i), quant.F32, 32*uint64(max(i, 1)), 8)
	}
	run("65,536 tensors", tensors.Data(1<<16*32))
	run("2^21 strings", gguftest.Start(3, 0, 2).KV("strings", gguf.Array).U32(8).U64(1<<21).Zeros(8<<21).KV("odd", 13))
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
