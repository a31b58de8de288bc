package convert_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"kigo/engine/convert"
	"kigo/engine/gguf"
	"kigo/engine/quant"
)

// tensor is a tensor of a test's input, with its bytes.
type tensor struct {
	name string
	typ  quant.Type
	dims []uint64
	data []byte
}

// floats is an F32 tensor.
func floats(name string, values []float32, dims ...uint64) tensor {
	return tensor{name, quant.F32, dims, encode(quant.F32, values)}
}

func encode(typ quant.Type, values []float32) []byte {
	f, err := quant.Lookup(typ)
	if err != nil {
		panic(err)
	}
	b := make([]byte, len(values)/f.BlockSize*f.BlockBytes)
	f.Quantize(b, values)
	return b
}

func decode(typ quant.Type, b []byte) []float32 {
	f, err := quant.Lookup(typ)
	if err != nil {
		panic(err)
	}
	values := make([]float32, len(b)/f.BlockBytes*f.BlockSize)
	f.Dequantize(values, b)
	return values
}

// normal returns n random values; the same for the same seed.
func normal(seed uint64, n int) []float32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(rng.NormFloat64() * 0.02)
	}
	return values
}

func file(tb testing.TB, kvs []gguf.KV, tensors ...tensor) []byte {
	tb.Helper()
	infos := make([]gguf.Tensor, len(tensors))
	for i, t := range tensors {
		infos[i] = gguf.Tensor{Name: t.name, Type: t.typ, Dims: t.dims}
	}
	var out bytes.Buffer
	w, err := gguf.NewWriter(&out, kvs, infos)
	if err != nil {
		tb.Fatal(err)
	}
	for _, t := range tensors {
		if err := w.Begin(t.name); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(t.data); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func format(tb testing.TB, name string) *quant.Format {
	tb.Helper()
	f, err := quant.ByName(name)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func run(in []byte, f *quant.Format) (out []byte, r convert.Result, err error) {
	var b bytes.Buffer
	r, err = convert.Convert(context.Background(), bytes.NewReader(in), int64(len(in)), &b, f, nil)
	return b.Bytes(), r, err
}

func parse(tb testing.TB, data []byte) *gguf.File {
	tb.Helper()
	f, err := gguf.Parse(bytes.NewReader(data), int64(len(data)), gguf.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func bytesOf(tb testing.TB, data []byte, f *gguf.File, name string) []byte {
	tb.Helper()
	t, ok := f.Tensor(name)
	if !ok {
		tb.Fatalf("no tensor %s", name)
	}
	return data[t.Offset : t.Offset+t.Size]
}

// Each kind of tensor gets the type, and the bytes, that the package promises, in
// every format, also where a tensor is longer than what is converted at a time.
func TestConvert(t *testing.T) {
	const cols, rows = 256, 2500 // 640,000 values
	weights, small := normal(1, cols*rows), normal(2, 96*3)
	in := file(t, []gguf.KV{{Key: "general.alignment", Value: gguf.ValueOf(uint32(128))}},
		floats("a.weight", weights, cols, rows),
		tensor{"half.weight", quant.F16, []uint64{cols, rows}, encode(quant.F16, weights)},
		tensor{"four.weight", quant.Q4_0, []uint64{cols, rows / 4, 4}, encode(quant.Q4_0, weights)},
		floats("bias", normal(3, 33), 33),
		tensor{"half.bias", quant.F16, []uint64{33}, encode(quant.F16, normal(3, 33))},
		floats("blk.0.attn_q_norm.weight", normal(4, 64), 32, 2),
		floats("blk.0.ffn_gate_inp.weight", normal(5, 64), 32, 2),
		floats("odd.weight", small, 48, 6),
		tensor{"odd.half.weight", quant.F16, []uint64{48, 6}, encode(quant.F16, small)},
		floats("cube.weight", small, 32, 3, 3),
	)
	for _, name := range []string{"f32", "f16", "bf16", "q8_0", "q4_0"} {
		t.Run(name, func(t *testing.T) {
			f := format(t, name)
			out, r, err := run(in, f)
			if err != nil {
				t.Fatal(err)
			}
			got := parse(t, out)
			odd := f.Type
			if f.BlockSize > 1 {
				odd = quant.F16
			}
			before := parse(t, in)
			kept := 0
			for i, want := range []struct {
				name string
				typ  quant.Type
			}{
				{"a.weight", f.Type},
				{"half.weight", f.Type},
				{"four.weight", f.Type},
				{"bias", quant.F32},
				{"half.bias", quant.F16},
				{"blk.0.attn_q_norm.weight", quant.F32},
				{"blk.0.ffn_gate_inp.weight", quant.F32},
				{"odd.weight", odd},
				{"odd.half.weight", odd},
				{"cube.weight", f.Type},
			} {
				tensor := got.Tensors[i]
				if tensor.Name != want.name || tensor.Type != want.typ || !slices.Equal(tensor.Dims, before.Tensors[i].Dims) {
					t.Errorf("tensor %d: %s %s %d, want %s %s", i, tensor.Name, tensor.Type, tensor.Dims, want.name, want.typ)
					continue
				}
				expect := bytesOf(t, in, before, want.name)
				if from := before.Tensors[i].Type; from == want.typ {
					kept++
				} else {
					expect = encode(want.typ, decode(from, expect)) // in one go
				}
				if !bytes.Equal(bytesOf(t, out, got, want.name), expect) {
					t.Errorf("%s: other bytes", want.name)
				}
			}
			if len(got.Tensors) != 10 || got.Alignment != 128 {
				t.Errorf("%d tensors, alignment %d", len(got.Tensors), got.Alignment)
			}
			want := convert.Result{Converted: 10 - kept, Kept: kept, BytesIn: int64(len(in)), BytesOut: int64(len(out))}
			if odd == quant.F16 && f.BlockSize > 1 {
				want.Fallbacks = []string{"odd.weight", "odd.half.weight"}
			}
			if !reflect.DeepEqual(r, want) {
				t.Errorf("%+v, want %+v", r, want)
			}
		})
	}
}

// The metadata comes through, but for the two keys that describe the result,
// which are replaced where they are or added at the end.
func TestMetadata(t *testing.T) {
	kvs := []gguf.KV{
		{Key: "general.architecture", Value: gguf.ValueOf("llama")},
		{Key: "general.file_type", Value: gguf.ValueOf(uint32(15))},
		{Key: "tokenizer.ggml.tokens", Value: gguf.ArrayOf([]string{"a", "", "季語"})},
	}
	for name, fileType := range map[string]uint32{"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32} {
		out, _, err := run(file(t, kvs), format(t, name))
		if err != nil {
			t.Fatal(err)
		}
		got := parse(t, out).KVs
		want := []struct {
			key   string
			value any
		}{
			{"general.architecture", "llama"},
			{"general.file_type", fileType},
			{"tokenizer.ggml.tokens", []string{"a", "", "季語"}},
			{"general.quantization_version", uint32(2)},
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %d entries", name, len(got))
		}
		for i, w := range want {
			if got[i].Key != w.key || !reflect.DeepEqual(got[i].Value.Any(), w.value) {
				t.Errorf("%s: %s = %v, want %s = %v", name, got[i].Key, got[i].Value.Any(), w.key, w.value)
			}
		}
	}
	// Once converted, there is nothing left to do.
	once, _, err := run(file(t, kvs, floats("w", normal(1, 1024), 64, 16)), format(t, "q8_0"))
	if err != nil {
		t.Fatal(err)
	}
	twice, r, err := run(once, format(t, "q8_0"))
	if err != nil || r.Converted != 0 || !bytes.Equal(once, twice) {
		t.Errorf("the second conversion: %+v, %v", r, err)
	}
}

// Formats that Kigo only reads are refused before anything is written.
func TestFormatsThatAreNotWritten(t *testing.T) {
	for _, f := range quant.All() {
		out, _, err := run(file(t, nil), f)
		if f.Quantize != nil {
			if err != nil {
				t.Errorf("%s: %v", f.Name, err)
			}
			continue
		}
		if !errors.Is(err, convert.ErrNotWritten) || !strings.Contains(err.Error(), f.Name+"; Kigo writes F32, F16, Q4_0, Q8_0, BF16") {
			t.Errorf("%s: %v", f.Name, err)
		}
		if len(out) > 0 {
			t.Errorf("%s: %d bytes written", f.Name, len(out))
		}
	}
}

// A value without a place in the new file fails the conversion by name.
func TestValuesOutOfRange(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	const at = 300_000 // beyond what is converted at a time
	values := normal(6, 1<<19)
	for _, c := range []struct {
		value float32
		says  map[string]string // per format; absent: it fits
	}{
		{nan, map[string]string{"f16": "is not finite", "bf16": "is not finite", "q8_0": "is not finite", "q4_0": "is not finite"}},
		{-inf, map[string]string{"f16": "is not finite", "bf16": "is not finite", "q8_0": "is not finite", "q4_0": "is not finite"}},
		{65504, nil},
		{-65519, nil},
		{65520, map[string]string{"f16": "does not fit F16"}},
		{500_000, map[string]string{"f16": "does not fit F16"}},
		{600_000, map[string]string{"f16": "does not fit F16", "q4_0": "does not fit Q4_0"}},
		{8_400_000, map[string]string{"f16": "does not fit F16", "q4_0": "does not fit Q4_0", "q8_0": "does not fit Q8_0"}},
		{math.MaxFloat32, map[string]string{"f16": "does not fit F16", "q4_0": "does not fit Q4_0", "q8_0": "does not fit Q8_0", "bf16": "does not fit BF16"}},
	} {
		values[at] = c.value
		in := file(t, nil, floats("fine.weight", normal(7, 64), 32, 2), floats("hot.weight", values, 1024, 512))
		for _, name := range []string{"f16", "bf16", "q8_0", "q4_0"} {
			_, _, err := run(in, format(t, name))
			says := c.says[name]
			if says == "" {
				if err != nil {
					t.Errorf("%v to %s: %v", c.value, name, err)
				}
				continue
			}
			// A block is spoilt as a whole: its first value may be named.
			if !errors.Is(err, convert.ErrValue) || !strings.Contains(err.Error(), `tensor "hot.weight": element 300000 `+says) &&
				!strings.Contains(err.Error(), `tensor "hot.weight": element 2999`) {
				t.Errorf("%v to %s: %v, want %q", c.value, name, err, says)
			}
		}
	}
}

// A cancelled context stops the work; the last bytes are never written.
func TestCancel(t *testing.T) {
	in := file(t, nil, floats("w", normal(8, 1<<21), 1<<10, 1<<11))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var out bytes.Buffer
	calls := 0
	_, err := convert.Convert(ctx, bytes.NewReader(in), int64(len(in)), &out, format(t, "f16"), func(done, total int64) {
		calls++
		if calls == 2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want context.Canceled", err)
	}
	if calls > 2 || out.Len() > 2<<20 {
		t.Errorf("%d pieces, %d bytes written after the cancel in the second", calls, out.Len())
	}
}

func TestProgress(t *testing.T) {
	in := file(t, nil, floats("a", normal(8, 1<<20), 1<<10, 1<<10), floats("b", normal(9, 32), 32))
	var steps []int64
	_, err := convert.Convert(context.Background(), bytes.NewReader(in), int64(len(in)), io.Discard, format(t, "f16"),
		func(done, total int64) {
			if total != 2<<20+4*32 {
				t.Errorf("total %d", total)
			}
			steps = append(steps, done)
		})
	if want := []int64{1 << 19, 2 << 19, 3 << 19, 4 << 19, 4<<19 + 128}; err != nil || !slices.Equal(steps, want) {
		t.Errorf("%v, %v, want %v", steps, err, want)
	}
}

// Bad inputs and bad outputs come back as the errors that they are.
func TestErrors(t *testing.T) {
	in := file(t, nil, floats("a", normal(8, 1<<20), 1<<10, 1<<10))
	boom := errors.New("boom")
	ctx := context.Background()
	f16 := format(t, "f16")
	if _, _, err := run(in[:len(in)-1], f16); !errors.Is(err, gguf.ErrTruncated) {
		t.Errorf("short file: %v", err)
	}
	if _, _, err := run([]byte("GGML1234"), f16); !errors.Is(err, gguf.ErrFormat) {
		t.Errorf("bad magic: %v", err)
	}
	for _, cut := range []int{len(in) - 1, len(in) / 2} {
		_, err := convert.Convert(ctx, bytes.NewReader(in[:cut]), int64(len(in)), io.Discard, f16, nil)
		if !errors.Is(err, gguf.ErrTruncated) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("file that shrinks to %d of %d: %v", cut, len(in), err)
		}
	}
	r := &breaking{bytes.NewReader(in), 2 << 20, boom}
	if _, err := convert.Convert(ctx, r, int64(len(in)), io.Discard, f16, nil); !errors.Is(err, boom) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("reader that breaks: %v", err)
	}
	for _, room := range []int{0, 10, 1 << 19, 1<<21 - 1} {
		if _, err := convert.Convert(ctx, bytes.NewReader(in), int64(len(in)), &full{room, boom}, f16, nil); !errors.Is(err, boom) {
			t.Errorf("writer that is full after %d bytes: %v", room, err)
		}
	}
}

// breaking fails to read beyond a position.
type breaking struct {
	io.ReaderAt
	limit int64
	err   error
}

func (b *breaking) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.limit {
		return 0, b.err
	}
	return b.ReaderAt.ReadAt(p, off)
}

// full fails to write beyond its room.
type full struct {
	room int
	err  error
}

func (f *full) Write(p []byte) (int, error) {
	n := min(len(p), f.room)
	f.room -= n
	if n < len(p) {
		return n, f.err
	}
	return n, nil
}

// Memory depends on the number of cores, not on the size of the file.
func TestBoundedMemory(t *testing.T) {
	in := file(t, nil, floats("a", make([]float32, 8<<20), 1<<10, 8<<10))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := convert.Convert(context.Background(), bytes.NewReader(in), int64(len(in)), io.Discard, format(t, "q8_0"), nil)
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Fatal(err)
	}
	// A slot has at most 1 MiB each of source, values and result.
	bound := uint64(3<<20*(runtime.GOMAXPROCS(0)+1) + 2<<20)
	if spent := after.TotalAlloc - before.TotalAlloc; spent > bound {
		t.Errorf("%d bytes allocated for a file of %d, at most %d expected", spent, len(in), bound)
	}
}
