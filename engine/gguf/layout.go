package gguf

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"

	"kigo/engine/quant"
)

const (
	defaultAlignment = 32
	maxDims          = 4
)

// alignmentOf returns general.alignment, or its default.
func alignmentOf(kvs []KV) (uint32, error) {
	for _, kv := range kvs {
		if kv.Key != alignmentKey {
			continue
		}
		if kv.Value.typ != Uint32 {
			return 0, mismatch(alignmentKey, "a uint32", kv.Value)
		}
		a := uint32(kv.Value.num)
		if bits.OnesCount32(a) != 1 || a > maxAlignment {
			return 0, fmt.Errorf("%w: key %q: %d is not a power of two up to %d", ErrFormat, alignmentKey, a, maxAlignment)
		}
		return a, nil
	}
	return defaultAlignment, nil
}

// alignUp rounds n up to a multiple of a, a power of two. n is small enough.
func alignUp(n, a int64) int64 { return (n + a - 1) &^ (a - 1) }

// tensorBytes returns the size of a tensor's data. The error says which product
// does not fit 63 bits, or that rows are no whole number of blocks.
func tensorBytes(dims []uint64, f *quant.Format) (int64, error) {
	rows := uint64(1)
	for _, d := range dims[1:] {
		hi, lo := bits.Mul64(rows, d)
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fmt.Errorf("the number of rows of dimensions %d overflows", dims)
		}
		rows = lo
	}
	if hi, lo := bits.Mul64(rows, dims[0]); hi != 0 || lo > math.MaxInt64 {
		return 0, fmt.Errorf("the number of elements of dimensions %d overflows", dims)
	}
	row, err := f.RowBytes(dims[0])
	if err != nil {
		return 0, err
	}
	hi, size := bits.Mul64(rows, row)
	if hi != 0 || size > math.MaxInt64 {
		return 0, fmt.Errorf("the size of dimensions %d in %s overflows", dims, f.Name)
	}
	return int64(size), nil
}

// place sets the tensors' absolute offsets from those in the table, and checks
// that every tensor lies within the file and no two overlap.
func place(f *File, offsets []uint64) error {
	total, err := dataBytes(f.Tensors, f.Alignment)
	if err != nil {
		return err
	}
	for i := range f.Tensors {
		t := &f.Tensors[i]
		end, carry := bits.Add64(offsets[i], uint64(t.Size), 0)
		if carry != 0 || end > math.MaxInt64-uint64(f.DataOffset) {
			return fmt.Errorf("%w: tensor %.80q: %d bytes at offset %d overflow", ErrFormat, t.Name, t.Size, offsets[i])
		}
		t.Offset = f.DataOffset + int64(offsets[i])
		if t.Offset+t.Size <= f.Size {
			continue
		}
		// A tensor that ends beyond the sum of all sizes leaves a hole before it,
		// which a cut file cannot explain.
		sentinel := ErrTruncated
		if int64(end) > total {
			sentinel = ErrFormat
		}
		return fmt.Errorf("%w: tensor %.80q has bytes %d to %d, the file has %d",
			sentinel, t.Name, t.Offset, t.Offset+t.Size, f.Size)
	}
	order := make([]*Tensor, len(f.Tensors))
	for i := range order {
		order[i] = &f.Tensors[i]
	}
	slices.SortFunc(order, func(a, b *Tensor) int { return cmp.Compare(a.Offset, b.Offset) })
	for i := 1; i < len(order); i++ {
		if a, b := order[i-1], order[i]; a.Offset+a.Size > b.Offset {
			return fmt.Errorf("%w: tensors %.80q (bytes %d to %d) and %.80q (bytes %d to %d) overlap",
				ErrFormat, a.Name, a.Offset, a.Offset+a.Size, b.Name, b.Offset, b.Offset+b.Size)
		}
	}
	return nil
}

// dataBytes returns the size of the data section: the sum of all tensors' sizes,
// each rounded up to the alignment.
func dataBytes(tensors []Tensor, alignment uint32) (int64, error) {
	var sum int64
	for i := range tensors {
		t := &tensors[i]
		if t.Size > math.MaxInt64-int64(alignment) {
			return 0, fmt.Errorf("%w: tensor %.80q: the padding after %d bytes overflows", ErrFormat, t.Name, t.Size)
		}
		padded := alignUp(t.Size, int64(alignment))
		if padded > math.MaxInt64-sum {
			return 0, fmt.Errorf("%w: tensor %.80q: the sum of the tensors' sizes overflows", ErrFormat, t.Name)
		}
		sum += padded
	}
	return sum, nil
}
