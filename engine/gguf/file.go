package gguf

import (
	"errors"
	"fmt"
	"math"

	"kigo/engine/quant"
)

// What is wrong with a file: every error of Parse and of the accessors that is
// not the reader's own wraps one of these.
var (
	// ErrFormat says that the file is not valid GGUF, goes beyond a limit, or has
	// metadata of another type than the one asked for.
	ErrFormat = errors.New("invalid GGUF file")
	// ErrTruncated says that the file is valid as far as it goes, and ends too
	// early: an interrupted download, as a rule.
	ErrTruncated = errors.New("GGUF file ends too early")
	// ErrUnsupported says that the file may be valid and has something that Kigo
	// does not read: another version or byte order, an array of arrays, or a
	// tensor type that is not in the table (then quant.ErrUnknownType is wrapped
	// as well).
	ErrUnsupported = errors.New("unsupported GGUF file")
)

// alignmentKey is the one key of the metadata that belongs to the format itself.
const alignmentKey = "general.alignment"

// File is the header of a GGUF file. It is inert: it holds no open file. Its
// strings share the memory that the header was read into, so that keeping one
// keeps up to a megabyte around it. It must not be changed, and can then be used
// from several goroutines.
type File struct {
	Version    uint32
	Alignment  uint32   // of the tensor data, a power of two
	KVs        []KV     // in file order; keys are unique
	Tensors    []Tensor // in file order; names are unique
	DataOffset int64    // where the tensor data starts, if there is any
	Size       int64    // of the whole file

	byName map[string]int // index into Tensors; nil in a File that Parse did not make
}

// KV is one entry of the metadata.
type KV struct {
	Key   string
	Value Value
}

// Tensor is one entry of the tensor table.
type Tensor struct {
	Name string
	// Dims has one to four entries above zero in GGML's order: Dims[0] is the
	// contiguous one, the number of columns; the product of the others is the
	// number of rows. A matrix that Python calls (rows, cols) is {cols, rows}.
	Dims   []uint64
	Type   quant.Type
	Offset int64 // of its first byte from the start of the file
	Size   int64 // in bytes, without padding
}

// Elements returns the number of values in the tensor.
func (t *Tensor) Elements() uint64 {
	n := uint64(1)
	for _, d := range t.Dims {
		n *= d
	}
	return n
}

// Value returns the value of a key; ok is false where it is absent.
func (f *File) Value(key string) (v Value, ok bool) {
	for i := range f.KVs {
		if f.KVs[i].Key == key {
			return f.KVs[i].Value, true
		}
	}
	return Value{}, false
}

// Tensor returns the tensor with a name; ok is false where there is none.
func (f *File) Tensor(name string) (t *Tensor, ok bool) {
	if f.byName != nil {
		i, ok := f.byName[name]
		if !ok {
			return nil, false
		}
		return &f.Tensors[i], true
	}
	for i := range f.Tensors {
		if f.Tensors[i].Name == name {
			return &f.Tensors[i], true
		}
	}
	return nil, false
}

// The accessors below return a key's value as a Go type. ok is false, with no
// error, where the key is absent; the error wraps ErrFormat, and names the key,
// the type asked for and the type found, where it is of another type or its value
// does not fit.

// String returns the string of a key.
func (f *File) String(key string) (s string, ok bool, err error) {
	v, ok := f.Value(key)
	if !ok {
		return "", false, nil
	}
	if v.typ != String {
		return "", false, mismatch(key, "a string", v)
	}
	return v.str, true, nil
}

// Uint returns the integer of a key, of any integer type, at least zero.
func (f *File) Uint(key string) (n uint64, ok bool, err error) {
	v, ok := f.Value(key)
	if !ok {
		return 0, false, nil
	}
	switch {
	case !v.typ.integer():
		return 0, false, mismatch(key, "an integer", v)
	case v.typ.signed() && int64(v.num) < 0:
		return 0, false, fmt.Errorf("%w: key %.80q: want an integer of at least 0, found %d", ErrFormat, key, int64(v.num))
	}
	return v.num, true, nil
}

// Int returns the integer of a key, of any integer type, that fits an int64.
func (f *File) Int(key string) (n int64, ok bool, err error) {
	v, ok := f.Value(key)
	if !ok {
		return 0, false, nil
	}
	switch {
	case !v.typ.integer():
		return 0, false, mismatch(key, "an integer", v)
	case !v.typ.signed() && v.num > math.MaxInt64:
		return 0, false, fmt.Errorf("%w: key %.80q: %d does not fit 64 signed bits", ErrFormat, key, v.num)
	}
	return int64(v.num), true, nil
}

// Float returns the number of a key of type float32 or float64.
func (f *File) Float(key string) (x float64, ok bool, err error) {
	v, ok := f.Value(key)
	if !ok {
		return 0, false, nil
	}
	switch v.typ {
	case Float32:
		return float64(math.Float32frombits(uint32(v.num))), true, nil
	case Float64:
		return math.Float64frombits(v.num), true, nil
	}
	return 0, false, mismatch(key, "a float", v)
}

// Bool returns the truth value of a key.
func (f *File) Bool(key string) (b bool, ok bool, err error) {
	v, ok := f.Value(key)
	if !ok {
		return false, false, nil
	}
	if v.typ != Bool {
		return false, false, mismatch(key, "a bool", v)
	}
	return v.num != 0, true, nil
}

// Strings returns the array of strings of a key. The slice is the caller's; it is
// made anew by each call.
func (f *File) Strings(key string) (s []string, ok bool, err error) {
	v, ok := f.Value(key)
	if !ok {
		return nil, false, nil
	}
	if v.typ != Array || v.arr.elem != String {
		return nil, false, mismatch(key, "an array of strings", v)
	}
	return v.arr.strings(), true, nil
}

// Ints returns the array of a key, of any integer type whose values all fit an
// int32. The slice is the caller's.
func (f *File) Ints(key string) (n []int32, ok bool, err error) {
	v, ok := f.Value(key)
	if !ok {
		return nil, false, nil
	}
	if v.typ != Array || !v.arr.elem.integer() {
		return nil, false, mismatch(key, "an array of integers", v)
	}
	n = make([]int32, v.arr.n)
	for i := range n {
		bits := v.arr.bits(i)
		n[i] = int32(bits)
		if v.arr.elem.signed() && int64(n[i]) != int64(bits) || !v.arr.elem.signed() && bits > math.MaxInt32 {
			return nil, false, fmt.Errorf("%w: key %.80q: element %d is %v, which does not fit 32 signed bits",
				ErrFormat, key, i, scalar(v.arr.elem, bits))
		}
	}
	return n, true, nil
}

// Floats returns the array of a key of type float32, or of float64 rounded to
// float32. The slice is the caller's.
func (f *File) Floats(key string) (x []float32, ok bool, err error) {
	v, ok := f.Value(key)
	if !ok {
		return nil, false, nil
	}
	if v.typ != Array || v.arr.elem != Float32 && v.arr.elem != Float64 {
		return nil, false, mismatch(key, "an array of floats", v)
	}
	x = make([]float32, v.arr.n)
	for i := range x {
		bits := v.arr.bits(i)
		if v.arr.elem == Float32 {
			x[i] = math.Float32frombits(uint32(bits))
		} else {
			x[i] = float32(math.Float64frombits(bits))
		}
	}
	return x, true, nil
}

func mismatch(key, want string, found Value) error {
	return fmt.Errorf("%w: key %.80q: want %s, found %s", ErrFormat, key, want, found.describe())
}
