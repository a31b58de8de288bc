package bench

import (
	"fmt"
	"math"
	"testing"

	"kigo/engine/model"
	"kigo/engine/synth"
)

// costOf makes the cost of a shape, with keys and values of so many bytes an
// element.
func costOf(t *testing.T, shape, format string, element int) *cost {
	t.Helper()
	s, err := synth.ShapeByName(shape)
	if err != nil {
		t.Fatal(err)
	}
	formats, err := synth.FormatsByName(format)
	if err != nil {
		t.Fatal(err)
	}
	f, err := synth.Header(s, formats)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := model.NewSpec(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := model.Bind(spec, f)
	if err != nil {
		t.Fatal(err)
	}
	return &cost{prog: model.Record(spec, b), token: float64(2 * element * s.Layers * s.KVHeads * s.HeadDim)}
}

// The numbers are from the shapes, by closed formulas, not by this program:
//
//	layers  = L (d·q + 2·d·kv + q·d + 3·d·ff) weights; output = V·d
//	vectors = 4 (2L+1) d bytes, and 4 L (q + 2·kv) of biases
//	decode  = (layers + output) · b + d·b + vectors + token · (context + 1) bytes
//	prefill = 2·layers·n + 2·output + 4·L·q·n(n+1)/2 operations
func TestWorkOfRealShapes(t *testing.T) {
	for _, test := range []struct {
		shape, format      string
		decode, decode4096 float64 // bytes
		flops512, flops2K  float64
	}{
		{"qwen2.5-0.5b", "f16", 988_222_720, 1_038_554_368, 377_982_976_000, 1_646_406_565_888},
		{"qwen2.5-0.5b", "q8_0", 525_133_240, 575_464_888, 377_982_976_000, 1_646_406_565_888},
		{"llama-3.2-1b", "f16", 2_471_800_832, 2_606_018_560, 1_014_171_172_864, 4_261_267_111_936},
		{"llama-3.2-1b", "q8_0", 1_313_286_272, 1_447_504_000, 1_014_171_172_864, 4_261_267_111_936},
		{"llama-3.1-8b", "f16", 15_010_521_088, 15_547_392_000, 7_216_729_948_160, 29_688_401_494_016},
		{"llama-3.1-8b", "q8_0", 7_974_899_968, 8_511_770_880, 7_216_729_948_160, 29_688_401_494_016},
		{"llama-3.1-8b", "q4_k_m", 4_617_529_600, 4_617_529_600 + 4096*131_072, 7_216_729_948_160, 29_688_401_494_016},
	} {
		t.Run(test.shape+" "+test.format, func(t *testing.T) {
			c := costOf(t, test.shape, test.format, 2)
			for what, pair := range map[string][2]float64{
				"decode":      {c.of(pass{rows: 1, logits: 1}).Bytes, test.decode},
				"decode 4096": {c.of(pass{start: 4096, rows: 1, logits: 1}).Bytes, test.decode4096},
				"512":         {c.of(pass{rows: 512, logits: 1}).FLOPs, test.flops512},
				"2048":        {c.of(pass{rows: 2048, logits: 1}).FLOPs, test.flops2K},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s: %.0f, want %.0f", what, pair[0], pair[1])
				}
			}
		})
	}
}

// What an H100 can do at most: tokens a second of one stream, by weights and keys
// and values; of a prompt, by the tensor cores.
func TestLimits(t *testing.T) {
	h100 := &Rates{Copy: Rate{PerSecond: 3.0e12}, Matrix: Rate{PerSecond: 798e12}}
	for _, test := range []struct {
		shape, format string
		decode, want  float64 // decode: after so many tokens; or -1: a prompt of 2048
		by            string
	}{
		{"qwen2.5-0.5b", "f16", 0, 3036, "bytes"},
		{"qwen2.5-0.5b", "q8_0", 0, 5713, "bytes"},
		{"llama-3.2-1b", "f16", 0, 1213.7, "bytes"},
		{"llama-3.1-8b", "f16", 0, 199.9, "bytes"},
		{"llama-3.1-8b", "f16", 4096, 193.0, "bytes"},
		{"llama-3.1-8b", "q8_0", 0, 376.2, "bytes"},
		{"llama-3.1-8b", "q4_k_m", 0, 649.7, "bytes"},
		{"llama-3.1-8b", "f16", -1, 55_049, "FLOPs"},
		{"qwen2.5-0.5b", "f16", -1, 992_652, "FLOPs"},
	} {
		t.Run(fmt.Sprint(test.shape, test.format, test.decode), func(t *testing.T) {
			c := costOf(t, test.shape, test.format, 2)
			n, w := 1.0, c.of(pass{start: int(test.decode), rows: 1, logits: 1})
			if test.decode < 0 {
				n, w = 2048, c.of(pass{rows: 2048, logits: 1})
			}
			seconds, by := w.seconds(h100)
			if got := n / seconds; math.Abs(got/test.want-1) > 1e-3 || by != test.by {
				t.Errorf("%.1f tokens a second by %s, want %.1f by %s", got, by, test.want, test.by)
			}
		})
	}
	// A prompt of one token is bound by its weights.
	if _, by := costOf(t, "llama-3.1-8b", "f16", 2).of(pass{rows: 1, logits: 1}).seconds(h100); by != "bytes" {
		t.Errorf("one row is bound by %s", by)
	}
	if s, by := (Work{1, 1}).seconds(nil); s != 0 || by != "" {
		t.Errorf("without rates: %v by %q", s, by)
	}
}

func TestWorkAddsUp(t *testing.T) {
	c := costOf(t, "tiny-qwen2", "q8_0", 4)
	whole := c.of(pass{rows: 40, logits: 1})
	halves := c.of(pass{rows: 25}).plus(c.of(pass{start: 25, rows: 15, logits: 1}))
	if whole.FLOPs != halves.FLOPs {
		t.Errorf("a prompt takes %v operations, its parts %v", whole.FLOPs, halves.FLOPs)
	}
	if whole.Bytes >= halves.Bytes {
		t.Errorf("a prompt takes %v bytes, its parts, which read the weights twice, %v", whole.Bytes, halves.Bytes)
	}
	var one Work
	for i := range 3 {
		one = one.plus(c.of(pass{start: 7 + i, rows: 1, logits: 1}))
	}
	if got := c.generating(7, 3); got != one {
		t.Errorf("three tokens take %v, one by one %v", got, one)
	}
	// The output matrix is read only where logits are wanted.
	less := c.of(pass{rows: 1}).Bytes
	if d := c.of(pass{rows: 1, logits: 1}).Bytes - less; d != 320*64/32*34+4*64 {
		t.Errorf("logits take %v bytes", d)
	}
}
