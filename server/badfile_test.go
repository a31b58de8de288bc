package server_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"kigo/engine/gguf"
	"kigo/engine/gguf/gguftest"
	"kigo/engine/quant"
	"kigo/engine/synth"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// badFile is a model file and how a load of it is refused.
type badFile struct {
	name   string
	data   []byte
	code   codes.Code
	reason string
	says   string // in the message: the tensor, the key, the number
}

// badFiles is every bad file: headers that are wrong, as the parser's own tests
// have them, and tiny models that are whole but for one thing.
func badFiles(t *testing.T) []badFile {
	var rows []badFile
	for _, c := range gguftest.Hostile() {
		row := badFile{name: c.Name, data: c.Data, says: c.Says}
		switch {
		case strings.Contains(c.Says, "unsupported tensor type"), strings.Contains(c.Says, "number 4711"):
			row.code, row.reason = codes.Unimplemented, "UNSUPPORTED_QUANTIZATION"
		case errors.Is(c.Want, gguf.ErrTruncated):
			row.code, row.reason = codes.DataLoss, "FILE_TRUNCATED"
		case errors.Is(c.Want, gguf.ErrUnsupported):
			row.code, row.reason = codes.InvalidArgument, "UNSUPPORTED_FILE"
		default:
			row.code, row.reason = codes.InvalidArgument, "INVALID_FILE"
		}
		rows = append(rows, row)
	}

	type kvs = map[string]gguf.Value
	u32 := func(n uint32) gguf.Value { return gguf.ValueOf(n) }
	f32 := func(v float64) gguf.Value { return gguf.ValueOf(float32(v)) }
	str := func(s string) gguf.Value { return gguf.ValueOf(s) }
	const invalid, unimplemented = codes.InvalidArgument, codes.Unimplemented
	for _, c := range []struct {
		name   string
		set    kvs // a nil Value takes the key away
		code   codes.Code
		reason string
		says   string
	}{
		{"another architecture", kvs{"general.architecture": str("mamba")}, unimplemented, "UNSUPPORTED_MODEL", `"mamba"`},
		{"an architecture that is a number", kvs{"general.architecture": u32(1)}, invalid, "INVALID_MODEL", "general.architecture"},
		{"block_count a string", kvs{"llama.block_count": str("2")}, invalid, "INVALID_MODEL", "llama.block_count"},
		{"block_count 0", kvs{"llama.block_count": u32(0)}, invalid, "INVALID_MODEL", "llama.block_count"},
		{"block_count 2^31", kvs{"llama.block_count": u32(1 << 31)}, invalid, "INVALID_MODEL", "llama.block_count: 2147483648"},
		{"block_count 3 of 2", kvs{"llama.block_count": u32(3)}, invalid, "INVALID_MODEL", `"blk.2.attn_norm.weight" is missing`},
		{"negative width", kvs{"llama.embedding_length": gguf.ValueOf(int32(-64))}, invalid, "INVALID_MODEL", "llama.embedding_length"},
		{"width that the tensors have not", kvs{"llama.embedding_length": u32(128)}, invalid, "INVALID_MODEL", `"token_embd.weight" is 320 x 64`},
		{"heads that do not divide", kvs{"llama.attention.head_count_kv": u32(3)}, invalid, "INVALID_MODEL", "does not divide 4 heads"},
		{"rope base NaN", kvs{"llama.rope.freq_base": f32(math.NaN())}, invalid, "INVALID_MODEL", "llama.rope.freq_base: NaN"},
		{"rope base infinite", kvs{"llama.rope.freq_base": f32(math.Inf(1))}, invalid, "INVALID_MODEL", "llama.rope.freq_base"},
		{"rope base a string", kvs{"llama.rope.freq_base": str("10000")}, invalid, "INVALID_MODEL", "llama.rope.freq_base"},
		{"norm epsilon NaN", kvs{"llama.attention.layer_norm_rms_epsilon": f32(math.NaN())}, invalid, "INVALID_MODEL", "layer_norm_rms_epsilon"},
		{"context 0", kvs{"llama.context_length": u32(0)}, invalid, "INVALID_MODEL", "llama.context_length"},
		{"experts", kvs{"llama.expert_count": u32(8)}, unimplemented, "UNSUPPORTED_MODEL", "mixture of experts"},
		{"a tokenizer of another kind", kvs{"tokenizer.ggml.model": str("bert")}, unimplemented, "UNSUPPORTED_TOKENIZER", `"bert"`},
		{"another pre-tokenizer", kvs{"tokenizer.ggml.pre": str("martian")}, unimplemented, "UNSUPPORTED_TOKENIZER", `"martian"`},
		{"no tokens", kvs{"tokenizer.ggml.tokens": {}}, invalid, "INVALID_MODEL", "tokenizer.ggml.tokens"},
		{"no merges", kvs{"tokenizer.ggml.merges": {}}, invalid, "INVALID_VOCABULARY", "tokenizer.ggml.merges"},
		{"merges naming absent tokens", kvs{"tokenizer.ggml.merges": gguf.ArrayOf([]string{"no such"})}, invalid, "INVALID_VOCABULARY", `"no"`},
		{"scores as int8", kvs{"tokenizer.ggml.scores": gguf.ArrayOf(make([]int8, 320))}, invalid, "INVALID_FILE", "tokenizer.ggml.scores"},
		{"types as strings", kvs{"tokenizer.ggml.token_type": gguf.ArrayOf([]string{"1"})}, invalid, "INVALID_FILE", "tokenizer.ggml.token_type"},
		{"bos beyond the vocabulary", kvs{"tokenizer.ggml.bos_token_id": u32(320)}, invalid, "INVALID_VOCABULARY", "320"},
		{"eos beyond the vocabulary", kvs{"tokenizer.ggml.eos_token_id": u32(math.MaxUint32)}, invalid, "INVALID_VOCABULARY", "eos"},
		{"a chat template that is a number", kvs{"tokenizer.chat_template": u32(1)}, invalid, "INVALID_FILE", "tokenizer.chat_template"},
	} {
		rows = append(rows, badFile{c.name, changedModel(t, c.set, nil, nil), c.code, c.reason, c.says})
	}
	tensors := func(name string, change func(x *gguf.Tensor)) func([]gguf.Tensor) []gguf.Tensor {
		return func(all []gguf.Tensor) []gguf.Tensor {
			for i := range all {
				if all[i].Name == name {
					change(&all[i])
				}
			}
			return all
		}
	}
	bytesOf := func(name string, change func(b []byte)) func(string, []byte) {
		return func(n string, b []byte) {
			if n == name {
				change(b)
			}
		}
	}
	rows = append(rows,
		badFile{"a tensor that is missing", changedModel(t, nil, func(all []gguf.Tensor) []gguf.Tensor {
			return slices.DeleteFunc(all, func(x gguf.Tensor) bool { return x.Name == "blk.1.ffn_down.weight" })
		}, nil), invalid, "INVALID_MODEL", `"blk.1.ffn_down.weight" is missing`},
		badFile{"a tensor of another shape", changedModel(t, nil,
			tensors("blk.0.ffn_up.weight", func(x *gguf.Tensor) { x.Dims = []uint64{96, 64} }), nil),
			invalid, "INVALID_MODEL", `"blk.0.ffn_up.weight" is 64 x 96, want 96 x 64`},
		badFile{"a norm that is NaN", changedModel(t, nil, nil, bytesOf("output_norm.weight", func(b []byte) {
			binary.LittleEndian.PutUint32(b, math.Float32bits(float32(math.NaN())))
		})), invalid, "INVALID_MODEL", "not numbers"},
		badFile{"a scale that is infinite", changedModel(t, nil, nil, bytesOf("blk.0.ffn_up.weight", func(b []byte) { b[0], b[1] = 0, 0x7c })),
			invalid, "INVALID_MODEL", "not numbers"},
		badFile{"a scale that is NaN", changedModel(t, nil, nil, bytesOf("blk.1.ffn_down.weight", func(b []byte) { b[0], b[1] = 1, 0x7e })),
			invalid, "INVALID_MODEL", "not numbers"},
	)
	whole := changedModel(t, nil, nil, nil)
	for _, cut := range []int{1, 3, 4, 8, 23, 24, 100, 1000, len(whole) / 2, len(whole) - 1} {
		rows = append(rows, badFile{"cut off", whole[:cut], codes.DataLoss, "FILE_TRUNCATED", ""})
	}
	return rows
}

// changedModel is a tiny model with other metadata, another tensor table, or
// other weights. A tensor of another size is cut or padded.
func changedModel(t *testing.T, set map[string]gguf.Value, table func([]gguf.Tensor) []gguf.Tensor, weights func(name string, b []byte)) []byte {
	t.Helper()
	shape, err := synth.ShapeByName("tiny")
	if err != nil {
		t.Fatal(err)
	}
	formats, err := synth.FormatsByName("q8_0")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := synth.Write(t.Context(), &b, shape, formats, 1); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	f, err := gguf.Parse(bytes.NewReader(raw), int64(len(raw)), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var kvs []gguf.KV
	for _, kv := range f.KVs {
		v, changed := set[kv.Key]
		switch {
		case !changed:
			kvs = append(kvs, kv)
		case v != (gguf.Value{}):
			kvs = append(kvs, gguf.KV{Key: kv.Key, Value: v})
		}
	}
	for key, v := range set {
		if _, there := f.Value(key); !there {
			kvs = append(kvs, gguf.KV{Key: key, Value: v})
		}
	}
	tensors := slices.Clone(f.Tensors)
	if table != nil {
		tensors = table(tensors)
	}
	var out bytes.Buffer
	w, err := gguf.NewWriter(&out, kvs, tensors)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range w.File().Tensors {
		from, _ := f.Tensor(x.Name)
		data := make([]byte, x.Size)
		copy(data, raw[from.Offset:from.Offset+from.Size])
		if weights != nil {
			weights(x.Name, data)
		}
		if err := w.Begin(x.Name); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Every bad file is refused over the API with its code, its reason and the place
// where it is wrong, without the path; the old model goes on serving, and says
// what it said before.
func TestEveryBadFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	e := newEngine(t)
	loadFile(t, e, smallModel(t))
	f := start(t, nil, e, func(c *server.Config) { c.ModelDir = dir })
	good := textRequest("The sea is", 5)
	good.Sampling.IgnoreEnd = ptr(true)
	want := f.mustExecute(t, good)
	for _, c := range badFiles(t) {
		writeFile(t, dir, "bad.gguf", string(c.data))
		_, _, err := f.load(t, &kigov1.LoadRequest{Path: "bad.gguf", Replace: ptr(true)})
		got := refusalOf(t, err)
		if got.code != c.code || got.reason != c.reason || !strings.Contains(strings.ReplaceAll(got.text, `\"`, `"`), c.says) {
			t.Errorf("%s: %v %s, want %v %s that says %s: %s", c.name, got.code, got.reason, c.code, c.reason, c.says, got.text)
		}
		if strings.Contains(got.text, dir) {
			t.Errorf("%s: the error shows the folder: %s", c.name, got.text)
		}
		if ready := f.check(t, "readiness"); ready != healthpb.HealthCheckResponse_SERVING {
			t.Fatalf("%s: readiness is %v afterwards", c.name, ready)
		}
	}
	if a := f.mustExecute(t, good); !slices.Equal(a.ids, want.ids) || a.started.GetModel() != "demo" {
		t.Errorf("afterwards %v of %s, before %v", a.ids, a.started.GetModel(), want.ids)
	}
}

// A model that does not fit is refused before anything of it is read, with what
// it takes and what there is. The file has a terabyte, none of it written.
func TestModelThatDoesNotFit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const width, hidden = 1 << 17, 1 << 20
	raw := changedModel(t, map[string]gguf.Value{
		"llama.embedding_length":    gguf.ValueOf(uint32(width)),
		"llama.feed_forward_length": gguf.ValueOf(uint32(hidden)),
		"llama.block_count":         gguf.ValueOf(uint32(1)),
	}, func(all []gguf.Tensor) []gguf.Tensor {
		// The names are there and the sizes are not; the table is written by hand.
		return nil
	}, nil)
	header, err := gguf.Parse(bytes.NewReader(raw), int64(len(raw)), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	const attention, kv = 4 * 16, 2 * 16
	names := []struct {
		name string
		dims []uint64
	}{
		{"token_embd.weight", []uint64{width, 320}}, {"output_norm.weight", []uint64{width}},
		{"blk.0.attn_norm.weight", []uint64{width}}, {"blk.0.attn_q.weight", []uint64{width, attention}},
		{"blk.0.attn_k.weight", []uint64{width, kv}}, {"blk.0.attn_v.weight", []uint64{width, kv}},
		{"blk.0.attn_output.weight", []uint64{attention, width}}, {"blk.0.ffn_norm.weight", []uint64{width}},
		{"blk.0.ffn_gate.weight", []uint64{width, hidden}}, {"blk.0.ffn_up.weight", []uint64{width, hidden}},
		{"blk.0.ffn_down.weight", []uint64{hidden, width}},
	}
	b := gguftest.Start(3, uint64(len(names)), uint64(len(header.KVs)))
	b = append(b, raw[24:headerEnd(t, raw)]...)
	at := uint64(0)
	for _, x := range names {
		b = b.Tensor(x.name, quant.F32, at, x.dims...)
		size := uint64(4)
		for _, d := range x.dims {
			size *= d
		}
		at += (size + 31) / 32 * 32
	}
	b = b.Data(0)
	path := writeFile(t, dir, "huge.gguf", string(b))
	if err := os.Truncate(path, int64(uint64(len(b))+at)); err != nil {
		t.Skipf("no sparse file of %d bytes here: %v", at, err)
	}
	e := newEngine(t)
	loadFile(t, e, smallModel(t))
	f := start(t, nil, e, func(c *server.Config) { c.ModelDir = dir })
	progress, _, err := f.load(t, &kigov1.LoadRequest{Path: filepath.Base(path), Replace: ptr(true)})
	got := refusalOf(t, err)
	if got.code != codes.ResourceExhausted || got.reason != "DOES_NOT_FIT" || !strings.Contains(got.text, "bytes") || !strings.Contains(got.text, "free") {
		t.Errorf("%+v", got)
	}
	for _, p := range progress {
		if p.GetBytesDone() > 0 {
			t.Errorf("%d bytes were read", p.GetBytesDone())
		}
	}
	f.mustExecute(t, textRequest("a", 1))
}

// headerEnd is where the metadata of a file without tensors ends.
func headerEnd(t *testing.T, raw []byte) int {
	t.Helper()
	end := len(raw)
	for ; end > 24; end-- {
		if _, err := gguf.Parse(bytes.NewReader(raw[:end]), int64(end), gguf.Limits{}); err != nil {
			return end + 1
		}
	}
	t.Fatal("the metadata has no end")
	return 0
}
