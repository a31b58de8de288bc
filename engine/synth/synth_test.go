package synth_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"kigo/engine/gguf"
	"kigo/engine/model"
	"kigo/engine/quant"
	"kigo/engine/synth"
	"kigo/engine/tokenizer"
)

func write(t *testing.T, s synth.Shape, format string) []byte {
	t.Helper()
	formats, err := synth.FormatsByName(format)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := synth.Write(t.Context(), &b, s, formats, 1); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestWriteMakesModelsThatBind(t *testing.T) {
	for _, s := range synth.Shapes()[:2] {
		for _, format := range []string{"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q4_k", "q5_k", "q6_k", "q4_k_m"} {
			t.Run(s.Name+"/"+format, func(t *testing.T) {
				raw := write(t, s, format)
				f, err := gguf.Parse(bytes.NewReader(raw), int64(len(raw)), gguf.Limits{})
				if err != nil {
					t.Fatal(err)
				}
				spec, err := model.NewSpec(f)
				if err != nil {
					t.Fatal(err)
				}
				if spec.Width != s.Width || spec.Vocab != s.Vocab || spec.HeadDim != s.HeadDim || spec.TrainContext != s.Context {
					t.Errorf("spec %+v", spec)
				}
				b, err := model.Bind(spec, f)
				if err != nil {
					t.Fatal(err)
				}
				if len(b.Unused) > 0 {
					t.Errorf("unused tensors: %v", b.Unused)
				}
				if err := model.Record(spec, b).Check(); err != nil {
					t.Error(err)
				}
				tok, err := tokenizer.FromGGUF(f)
				if err != nil {
					t.Fatal(err)
				}
				text := "the other one, naïve\x00\xff"
				ids := tok.Encode([]byte(text), tokenizer.EncodeOptions{})
				back, err := tok.Decode(ids, false)
				if err != nil || string(back) != text || len(ids) >= len(text) {
					t.Errorf("%q became %v and %q (%v)", text, ids, back, err)
				}
				if !bytes.Equal(raw, write(t, s, format)) {
					t.Error("the same seed gave other bytes")
				}
			})
		}
	}
}

func TestShapesHaveTheSizesOfTheRealModels(t *testing.T) {
	for name, want := range map[string]struct {
		tensors int
		bytes   int64
		format  string
	}{
		"qwen2.5-0.5b": {291, 1_260_000_000, "f16"},
		"llama-3.2-1b": {146, 2_470_000_000, "f16"},
		"llama-3.1-8b": {291, 16_060_000_000, "f16"},
	} {
		s, err := synth.ShapeByName(name)
		if err != nil {
			t.Fatal(err)
		}
		formats, err := synth.FormatsByName(want.format)
		if err != nil {
			t.Fatal(err)
		}
		// The header is written before the first weight; stop there.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var b bytes.Buffer
		if err := synth.Write(ctx, &b, s, formats, 1); !errors.Is(err, context.Canceled) {
			t.Fatalf("error %v", err)
		}
		tensors, size := synth.Size(s, formats)
		if tensors != want.tensors || size < want.bytes*99/100 || size > want.bytes*101/100 {
			t.Errorf("%s: %d tensors of %d bytes, want %d of %d", name, tensors, size, want.tensors, want.bytes)
		}
	}
}

func TestMixtureGivesSomeMatricesMoreBits(t *testing.T) {
	s, _ := synth.ShapeByName("llama-3.1-8b")
	formats, err := synth.FormatsByName("Q4_K_M")
	if err != nil {
		t.Fatal(err)
	}
	count := map[quant.Type]int{}
	for l := range s.Layers {
		count[formats("ffn_down", l, &s, s.FeedForward)]++
		if got := formats("ffn_up", l, &s, s.Width); got != quant.Q4_K {
			t.Errorf("ffn_up of layer %d is %v", l, got)
		}
	}
	if count[quant.Q6_K] != 16 || count[quant.Q4_K] != 16 {
		t.Errorf("down projections: %v", count)
	}
	if got := formats("attn_q", 0, &s, 896); got != quant.Q5_0 {
		t.Errorf("rows of 896 take %v", got)
	}
}
