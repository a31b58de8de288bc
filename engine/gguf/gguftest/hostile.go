// Package gguftest has bad GGUF files, for the tests of everything that reads
// files: the parser, the engine, the server.
package gguftest

import (
	"encoding/binary"
	"strings"

	"kigo/engine/gguf"
	"kigo/engine/quant"
)

// Raw builds files byte by byte, so that it can build wrong ones.
type Raw []byte

// What Raw appends: numbers, a string with its length before it, zeros.

func (b Raw) U32(n uint32) Raw { return binary.LittleEndian.AppendUint32(b, n) }
func (b Raw) U64(n uint64) Raw { return binary.LittleEndian.AppendUint64(b, n) }
func (b Raw) Str(s string) Raw { return append(b.U64(uint64(len(s))), s...) }
func (b Raw) Zeros(n int) Raw  { return append(b, make([]byte, n)...) }

// Start is a header's fixed part.
func Start(version uint32, tensors, kvs uint64) Raw {
	return Raw("GGUF").U32(version).U64(tensors).U64(kvs)
}

// KV starts a metadata entry of a value type.
func (b Raw) KV(key string, t gguf.ValueType) Raw { return b.Str(key).U32(uint32(t)) }

// Tensor is an entry of the tensor table.
func (b Raw) Tensor(name string, t quant.Type, offset uint64, dims ...uint64) Raw {
	b = b.Str(name).U32(uint32(len(dims)))
	for _, d := range dims {
		b = b.U64(d)
	}
	return b.U32(uint32(t)).U64(offset)
}

// Data pads to 32 bytes and adds n bytes of tensor data.
func (b Raw) Data(n int) Raw {
	return b.Zeros((32-len(b)%32)%32 + n)
}

// One is a file with one tensor, with 256 bytes of data.
func One(name string, t quant.Type, offset uint64, dims ...uint64) Raw {
	return Start(3, 1, 0).Tensor(name, t, offset, dims...).Data(256)
}

// aligned is a file with general.alignment and nothing else.
func aligned(n uint32) Raw {
	return Start(3, 0, 1).KV("general.alignment", gguf.Uint32).U32(n)
}

func nest(depth int) Raw {
	b := Start(3, 0, 1).KV("nest", gguf.Array)
	for range depth {
		b = b.U32(uint32(gguf.Array)).U64(1)
	}
	return b.U32(uint32(gguf.Uint8)).U64(1).Zeros(1)
}

// Case is a bad file.
type Case struct {
	Name string
	Data Raw
	Want error  // wrapped by the error
	Says string // in the error: it names the place
}

// Hostile is every way in which a header can be wrong, or a file too short for
// what it says.
func Hostile() []Case {
	return []Case{
		{"empty file", Raw{}, gguf.ErrTruncated, "byte 0"},
		{"bad magic", Raw("GGML").U32(3).Zeros(16), gguf.ErrFormat, `"GGML"`},
		{"short bad magic", Raw("GGx"), gguf.ErrFormat, `"GGx"`},
		{"safetensors", Raw{}.U64(2).Zeros(64), gguf.ErrFormat, "starts with"},
		{"version 0", Start(0, 0, 0), gguf.ErrUnsupported, "version 0"},
		{"version 1", Start(1, 0, 0), gguf.ErrUnsupported, "version 1"},
		{"version 4", Start(4, 0, 0), gguf.ErrUnsupported, "version 4"},
		{"version 2^32-1", Start(1<<32-1, 0, 0), gguf.ErrUnsupported, "version 4294967295"},
		{"big-endian", Raw("GGUF\x00\x00\x00\x03").Zeros(16), gguf.ErrUnsupported, "big-endian"},
		{"tensor count -1", Start(3, 1<<64-1, 0).Zeros(100), gguf.ErrFormat, "18446744073709551615 tensors"},
		{"tensor count 2^63", Start(3, 1<<63, 0).Zeros(100), gguf.ErrFormat, "tensors"},
		{"tensor count beyond the file", Start(3, 60000, 0).Zeros(100), gguf.ErrTruncated, "60000 tensors"},
		{"metadata count -1", Start(3, 0, 1<<64-1).Zeros(100), gguf.ErrFormat, "18446744073709551615 metadata entries"},
		{"metadata count beyond the file", Start(3, 0, 60000).Zeros(100), gguf.ErrTruncated, "60000 metadata entries"},
		{"key length -1", Start(3, 0, 1).U64(1<<64 - 1).Zeros(100), gguf.ErrFormat, "key number 0, byte 24"},
		{"key length 2^63", Start(3, 0, 1).U64(1 << 63).Zeros(100), gguf.ErrFormat, "key number 0"},
		{"key too long", Start(3, 0, 1).KV(strings.Repeat("k", 1<<16), gguf.Uint8).Zeros(1), gguf.ErrFormat, "65536 bytes"},
		{"empty key", Start(3, 0, 1).KV("", gguf.Uint8).Zeros(9), gguf.ErrFormat, "empty key"},
		{"duplicate key", Start(3, 0, 2).KV("twin", gguf.Uint8).Zeros(1).KV("twin", gguf.Uint8).Zeros(1), gguf.ErrFormat, `key "twin", byte 41`},
		{"unknown value type", Start(3, 0, 1).KV("odd", 13).Zeros(8), gguf.ErrFormat, `key "odd", byte 35: value type 13`},
		{"value type 2^32-1", Start(3, 0, 1).KV("odd", 1<<32-1).Zeros(8), gguf.ErrFormat, `key "odd"`},
		{"bool 7", append(Start(3, 0, 1).KV("maybe", gguf.Bool), 7), gguf.ErrFormat, `key "maybe"`},
		{"bool 7 in an array", append(Start(3, 0, 1).KV("maybe", gguf.Array).U32(7).U64(2), 1, 7), gguf.ErrFormat, "element 1"},
		{"string length -1", Start(3, 0, 1).KV("s", gguf.String).U64(1<<64 - 1).Zeros(50), gguf.ErrFormat, `key "s"`},
		{"string beyond the file", Start(3, 0, 1).KV("s", gguf.String).U64(1000).Zeros(50), gguf.ErrTruncated, `key "s"`},
		{"array length -1", Start(3, 0, 1).KV("a", gguf.Array).U32(4).U64(1<<64 - 1).Zeros(50), gguf.ErrFormat, `key "a"`},
		{"array length wraps", Start(3, 0, 1).KV("a", gguf.Array).U32(4).U64(1<<62 + 1).Zeros(50), gguf.ErrFormat, `key "a"`},
		{"array beyond the file", Start(3, 0, 1).KV("a", gguf.Array).U32(4).U64(1000).Zeros(50), gguf.ErrTruncated, `key "a"`},
		{"unknown element type", Start(3, 0, 1).KV("a", gguf.Array).U32(99).U64(1).Zeros(50), gguf.ErrFormat, "element type 99"},
		{"2^26 strings in 60 bytes", Start(3, 0, 1).KV("a", gguf.Array).U32(8).U64(1 << 26).Zeros(11), gguf.ErrFormat, "67108864 strings"},
		{"2^20 strings in 60 bytes", Start(3, 0, 1).KV("a", gguf.Array).U32(8).U64(1 << 20).Zeros(11), gguf.ErrTruncated, "1048576 strings"},
		{"string of an array beyond the file", Start(3, 0, 1).KV("a", gguf.Array).U32(8).U64(2).Str("x").U64(99).Zeros(9), gguf.ErrTruncated, "element 1 of 2"},
		{"string of an array of length -1", Start(3, 0, 1).KV("a", gguf.Array).U32(8).U64(2).Str("x").U64(1<<64 - 1).Zeros(9), gguf.ErrFormat, "element 1 of 2"},
		{"string of an array of length -8", Start(3, 0, 1).KV("a", gguf.Array).U32(8).U64(2).Str("x").U64(1<<64 - 8).Zeros(9), gguf.ErrFormat, "element 1 of 2"},
		{"array of arrays", nest(1), gguf.ErrUnsupported, `key "nest"`},
		{"arrays nested 1,000 deep", nest(1000), gguf.ErrUnsupported, `key "nest"`},
		{"alignment 0", aligned(0), gguf.ErrFormat, "general.alignment"},
		{"alignment 13", aligned(13), gguf.ErrFormat, "general.alignment"},
		{"alignment 2^31", aligned(1 << 31), gguf.ErrFormat, "general.alignment"},
		{"alignment of type uint64", Start(3, 0, 1).KV("general.alignment", gguf.Uint64).U64(32), gguf.ErrFormat, "want a uint32, found uint64"},
		{"alignment of type string", Start(3, 0, 1).KV("general.alignment", gguf.String).Str("32"), gguf.ErrFormat, "want a uint32, found string"},
		{"empty name", One("", quant.F32, 0, 4), gguf.ErrFormat, "tensor number 0"},
		{"name of 65 bytes", One(strings.Repeat("n", 65), quant.F32, 0, 4), gguf.ErrFormat, "name has 65 bytes"},
		{"name length -1", Start(3, 1, 0).U64(1<<64 - 1).Zeros(100), gguf.ErrFormat, "tensor number 0"},
		{"no dimensions", One("t", quant.F32, 0), gguf.ErrFormat, `tensor "t"`},
		{"5 dimensions", One("t", quant.F32, 0, 1, 1, 1, 1, 1), gguf.ErrFormat, "5 dimensions"},
		{"2^32-1 dimensions", Start(3, 1, 0).Str("t").U32(1<<32 - 1).Zeros(100), gguf.ErrFormat, "4294967295 dimensions"},
		{"zero dimension", One("t", quant.F32, 0, 4, 0), gguf.ErrFormat, "dimension 1 is 0"},
		{"negative dimension", One("t", quant.F32, 0, 1<<64-1), gguf.ErrFormat, "dimension 0 is -1"},
		{"elements wrap to 0", One("t", quant.F32, 0, 1<<32, 1<<32), gguf.ErrFormat, "elements"},
		{"elements wrap to 1", One("t", quant.F32, 0, 1<<62+1, 1<<62+1), gguf.ErrFormat, "elements"},
		{"rows wrap", One("t", quant.F32, 0, 4, 1<<62, 1<<62), gguf.ErrFormat, "rows"},
		{"row size overflows", One("t", quant.F32, 0, 1<<62), gguf.ErrFormat, "overflows"},
		{"byte size overflows", One("t", quant.F32, 0, 1<<31, 1<<30), gguf.ErrFormat, "size"},
		{"padding overflows", One("t", quant.F32, 0, 1<<61-1), gguf.ErrFormat, "padding"},
		{"sum of sizes overflows", Start(3, 2, 0).Tensor("a", quant.F32, 0, 1<<60).Tensor("b", quant.F32, 0, 1<<60).Data(256), gguf.ErrFormat, "sum"},
		{"row is no whole number of blocks", One("t", quant.Q4_0, 0, 48, 2), gguf.ErrFormat, "48 values"},
		{"known type that Kigo does not read", One("t", 16, 0, 256), gguf.ErrUnsupported, `tensor "t", byte 45: unsupported tensor type: IQ2_XXS (16)`},
		{"unknown type", One("t", 4711, 0, 256), gguf.ErrUnsupported, "number 4711"},
		{"misaligned offset", One("t", quant.F32, 16, 4), gguf.ErrFormat, "offset 16"},
		{"offset past the end", One("t", quant.F32, 1<<20, 4), gguf.ErrFormat, `tensor "t"`},
		{"offset inside the header", One("t", quant.F32, 1<<64-32, 4), gguf.ErrFormat, `tensor "t"`},
		{"offset plus size overflows", One("t", quant.F32, 1<<63-64, 4), gguf.ErrFormat, `tensor "t"`},
		{"offset plus size wraps", One("t", quant.F32, 1<<64-32, 16), gguf.ErrFormat, `tensor "t"`},
		{"data cut short", One("t", quant.F32, 0, 65), gguf.ErrTruncated, `tensor "t"`},
		{"second tensor cut off", Start(3, 2, 0).Tensor("a", quant.F32, 0, 64).Tensor("b", quant.F32, 256, 1).Data(256), gguf.ErrTruncated, `tensor "b"`},
		{"tensors overlap", Start(3, 2, 0).Tensor("a", quant.F32, 0, 16).Tensor("b", quant.F32, 32, 8).Data(256), gguf.ErrFormat, "overlap"},
		{"tensors share their bytes", Start(3, 2, 0).Tensor("a", quant.F32, 0, 8).Tensor("b", quant.F32, 0, 8).Data(256), gguf.ErrFormat, "overlap"},
		{"small tensor inside a large one", Start(3, 3, 0).Tensor("c", quant.F32, 64, 8).Tensor("a", quant.F32, 0, 48).Tensor("b", quant.F32, 192, 8).Data(256), gguf.ErrFormat, "overlap"},
		{"tensor twice", Start(3, 2, 0).Tensor("a", quant.F32, 0, 8).Tensor("a", quant.F32, 32, 8).Data(256), gguf.ErrFormat, `tensor "a"`},
	}
}
