package quant

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// ErrUnknownType is what Lookup and ByName wrap for a format that is not in the
// table, whether GGML knows it or not.
var ErrUnknownType = errors.New("unsupported tensor type")

// Type is a tensor's element type: the number that GGML gives it and that GGUF
// files store.
type Type uint32

// The types in the table.
const (
	F32  Type = 0
	F16  Type = 1
	Q4_0 Type = 2
	Q4_1 Type = 3
	Q5_0 Type = 6
	Q5_1 Type = 7
	Q8_0 Type = 8
	Q4_K Type = 12
	Q5_K Type = 13
	Q6_K Type = 14
	BF16 Type = 30
)

// String returns the type's name as GGML spells it ("Q4_K"), also for types that
// Kigo does not read, or "type 99" for a number without a name.
func (t Type) String() string {
	if f := find(t); f != nil {
		return f.Name
	}
	if name, ok := otherName(t); ok {
		return name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Format describes one tensor format. The formats that Lookup, ByName and All
// return are shared: treat them as constants.
type Format struct {
	Type       Type
	Name       string // GGML's name, "Q4_K"
	BlockSize  int    // values in a block
	BlockBytes int    // bytes in a block

	// Dequantize writes the values of the blocks in src to dst. Both hold whole
	// blocks and the same number of them: len(dst) is n*BlockSize and len(src)
	// n*BlockBytes; anything else is a programming error and panics. It keeps
	// neither slice, and may be called from several goroutines at once.
	Dequantize func(dst []float32, src []byte)

	// Quantize is the inverse, rounding to nearest, under the same rules. It is
	// nil where Kigo does not write the format. Values that are not finite, or
	// whose scale is too small for its inverse to be finite, give valid bytes
	// without a meaning: check before if that matters.
	Quantize func(dst []byte, src []float32)
}

// Lookup returns the format of a type number. The error wraps ErrUnknownType and
// names the number, with GGML's name for it where there is one.
func Lookup(t Type) (*Format, error) {
	if f := find(t); f != nil {
		return f, nil
	}
	if name, ok := otherName(t); ok {
		return nil, fmt.Errorf("%w: %s (%d)", ErrUnknownType, name, uint32(t))
	}
	return nil, fmt.Errorf("%w: number %d", ErrUnknownType, uint32(t))
}

// ByName returns the format with a name, whatever its case ("q8_0", "Q8_0"). The
// error wraps ErrUnknownType and lists the names there are.
func ByName(name string) (*Format, error) {
	for i := range table {
		if strings.EqualFold(table[i].Name, name) {
			return &table[i], nil
		}
	}
	names := make([]string, len(table))
	for i := range table {
		names[i] = table[i].Name
	}
	return nil, fmt.Errorf("%w: %.40q is not one of %s", ErrUnknownType, name, strings.Join(names, ", "))
}

// All returns the table's formats in order of their type numbers. The slice is
// the caller's.
func All() []*Format {
	all := make([]*Format, len(table))
	for i := range table {
		all[i] = &table[i]
	}
	return all
}

// RowBytes returns the size in bytes of a row of cols values. It is an error if
// cols is not a multiple of BlockSize or the size does not fit 64 bits.
func (f *Format) RowBytes(cols uint64) (uint64, error) {
	if cols%uint64(f.BlockSize) != 0 {
		return 0, fmt.Errorf("a row of %d values is not a whole number of %s blocks of %d", cols, f.Name, f.BlockSize)
	}
	hi, lo := bits.Mul64(cols/uint64(f.BlockSize), uint64(f.BlockBytes))
	if hi != 0 {
		return 0, fmt.Errorf("a row of %d values in %s overflows 64 bits", cols, f.Name)
	}
	return lo, nil
}

// checkBlocks returns the number of blocks in a call's slices, and panics if the
// two disagree: the caller has mixed up shapes, and to go on would read another
// tensor's bytes.
func checkBlocks(name string, values, size, bytes, blockBytes int) int {
	n := values / size
	if values != n*size || bytes != n*blockBytes {
		panic(fmt.Sprintf("quant: %s: %d values against %d bytes (a block is %d values in %d bytes)",
			name, values, bytes, size, blockBytes))
	}
	return n
}
