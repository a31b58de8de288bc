package gguf

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"math/bits"

	"kigo/engine/quant"
)

const magic = "GGUF"

// The fewest bytes that an entry of the metadata (a one-byte key, a one-byte
// value) and of the tensor table (a one-byte name, one dimension) can have.
const (
	minKVBytes     = 8 + 1 + 4 + 1
	minTensorBytes = 8 + 1 + 4 + 8 + 4 + 8
)

// Parse reads the header of a GGUF file of size bytes. It reads from r in large
// pieces, up to a megabyte beyond the header, and does not keep it. The package's
// comment says what holds for the File that it returns and what its errors are.
func Parse(r io.ReaderAt, size int64, lim Limits) (*File, error) {
	lim = lim.withDefaults()
	p := parser{
		cursor: cursor{r: r, size: max(size, 0), limit: lim.HeaderBytes},
		lim:    lim,
		file:   &File{Size: size, Alignment: defaultAlignment},
	}
	if err := p.parse(); err != nil {
		return nil, err
	}
	return p.file, nil
}

type parser struct {
	cursor
	lim     Limits
	strings uint64 // in arrays, so far
	file    *File
}

func (p *parser) parse() error {
	if err := p.preamble(); err != nil {
		return err
	}
	tensors, err := p.count("tensors", p.lim.Tensors, minTensorBytes)
	if err != nil {
		return err
	}
	kvs, err := p.count("metadata entries", p.lim.KVs, minKVBytes)
	if err != nil {
		return err
	}
	if err := p.metadata(kvs); err != nil {
		return err
	}
	if err := p.alignment(); err != nil {
		return err
	}
	return p.tensors(tensors)
}

// preamble reads the magic and the version.
func (p *parser) preamble() error {
	// A file that is shorter than the magic is truncated only if it starts as one.
	b, err := p.take(uint64(min(p.size, int64(len(magic)))), "magic")
	if err != nil {
		return err
	}
	if !bytes.HasPrefix([]byte(magic), b) {
		return p.errorf(ErrFormat, 0, "it starts with %q, not %q", b, magic)
	}
	if len(b) < len(magic) {
		return p.errorf(ErrTruncated, 0, "the file has %d bytes", p.size)
	}
	at := p.pos()
	v, err := p.uint32("version")
	if err != nil {
		return err
	}
	switch swapped := bits.ReverseBytes32(v); {
	case v == 2 || v == 3:
		p.file.Version = v
		return nil
	case swapped >= 1 && swapped <= 3:
		return p.errorf(ErrUnsupported, at, "version %d in big-endian byte order", swapped)
	}
	return p.errorf(ErrUnsupported, at, "version %d, Kigo reads 2 and 3", v)
}

// count reads a number of items of at least each bytes.
func (p *parser) count(what string, limit, each uint64) (int, error) {
	at := p.pos()
	n, err := p.uint64("the number of " + what)
	if err != nil {
		return 0, err
	}
	if n > limit {
		return 0, p.errorf(ErrFormat, at, "%d %s, at most %d are allowed", n, what, limit)
	}
	return int(n), p.room(n, each, what)
}

func (p *parser) metadata(n int) error {
	p.file.KVs = make([]KV, 0, n)
	seen := make(map[string]struct{}, n)
	for i := range n {
		p.kind, p.name, p.nth = "key", "", i
		at := p.pos()
		key, err := p.text(p.lim.KeyBytes, "key")
		if err != nil {
			return err
		}
		if key == "" {
			return p.errorf(ErrFormat, at, "empty key")
		}
		p.name = key
		if _, dup := seen[key]; dup {
			return p.errorf(ErrFormat, at, "the key is there twice")
		}
		seen[key] = struct{}{}
		v, err := p.value()
		if err != nil {
			return err
		}
		p.file.KVs = append(p.file.KVs, KV{key, v})
	}
	return nil
}

// value reads the type and the value of a metadata entry.
func (p *parser) value() (Value, error) {
	at := p.pos()
	t, err := p.valueType("value type")
	if err != nil {
		return Value{}, err
	}
	switch t {
	case String:
		s, err := p.text(p.lim.StringBytes, "string")
		return Value{typ: String, str: s}, err
	case Array:
		return p.array()
	}
	b, err := p.take(uint64(t.width()), "value")
	if err != nil {
		return Value{}, err
	}
	v := Value{typ: t, num: decode(t, b)}
	if t == Bool && v.num > 1 {
		return Value{}, p.errorf(ErrFormat, at, "a bool of %d", v.num)
	}
	return v, nil
}

func (p *parser) array() (Value, error) {
	at := p.pos()
	t, err := p.valueType("element type")
	if err != nil {
		return Value{}, err
	}
	n, err := p.uint64("the length of an array")
	if err != nil {
		return Value{}, err
	}
	a := &array{elem: t}
	switch t {
	case Array:
		return Value{}, p.errorf(ErrUnsupported, at, "an array of arrays")
	case String:
		if n > p.lim.Strings-p.strings {
			return Value{}, p.errorf(ErrFormat, at, "%d strings after %d, at most %d are allowed", n, p.strings, p.lim.Strings)
		}
		if err := p.room(n, 8, "strings"); err != nil {
			return Value{}, err
		}
		p.strings += n
		a.n = int(n)
		a.texts, err = p.texts(n, p.lim.StringBytes)
		return Value{typ: Array, arr: a}, err
	}
	width := uint64(t.width())
	if err := p.room(n, width, t.String()+" elements"); err != nil {
		return Value{}, err
	}
	a.n = int(n)
	if a.raw, err = p.take(n*width, "an array"); err != nil {
		return Value{}, err
	}
	if t == Bool {
		for i, b := range a.raw {
			if b > 1 {
				return Value{}, p.errorf(ErrFormat, at, "element %d is a bool of %d", i, b)
			}
		}
	}
	return Value{typ: Array, arr: a}, nil
}

func (p *parser) valueType(what string) (ValueType, error) {
	at := p.pos()
	n, err := p.uint32(what)
	if err != nil {
		return 0, err
	}
	t := ValueType(n)
	if !t.known() {
		return 0, p.errorf(ErrFormat, at, "%s %d is unknown", what, n)
	}
	return t, nil
}

// alignment takes the alignment of the tensor data out of the metadata.
func (p *parser) alignment() error {
	a, err := alignmentOf(p.file.KVs)
	if err != nil {
		return err
	}
	p.file.Alignment = a
	return nil
}

func (p *parser) tensors(n int) error {
	f := p.file
	f.Tensors = make([]Tensor, n)
	f.byName = make(map[string]int, n)
	dims := make([]uint64, 0, n) // of all tensors, one after another; most have one or two
	offsets := make([]uint64, n) // from the start of the data
	for i := range f.Tensors {
		t := &f.Tensors[i]
		p.kind, p.name, p.nth = "tensor", "", i
		at := p.pos()
		name, err := p.text(p.lim.NameBytes, "name")
		if err != nil {
			return err
		}
		if name == "" {
			return p.errorf(ErrFormat, at, "empty name")
		}
		t.Name, p.name = name, name
		if _, dup := f.byName[name]; dup {
			return p.errorf(ErrFormat, at, "the tensor is there twice")
		}
		f.byName[name] = i
		if dims, err = p.dims(t, dims); err != nil {
			return err
		}
		at = p.pos()
		b, err := p.take(4+8, "type and offset")
		if err != nil {
			return err
		}
		t.Type = quant.Type(binary.LittleEndian.Uint32(b))
		offsets[i] = binary.LittleEndian.Uint64(b[4:])
		format, err := quant.Lookup(t.Type)
		if err != nil {
			return p.errorf(ErrUnsupported, at, "%w", err)
		}
		if t.Size, err = tensorBytes(t.Dims, format); err != nil {
			return p.errorf(ErrFormat, at, "%w", err)
		}
		if offsets[i]%uint64(f.Alignment) != 0 {
			return p.errorf(ErrFormat, at+4, "offset %d is not a multiple of the alignment %d", offsets[i], f.Alignment)
		}
	}
	p.kind = ""
	f.DataOffset = alignUp(p.pos(), int64(f.Alignment))
	return place(f, offsets)
}

// dims reads a tensor's dimensions into t.Dims, which it appends to all.
func (p *parser) dims(t *Tensor, all []uint64) ([]uint64, error) {
	at := p.pos()
	n, err := p.uint32("the number of dimensions")
	if err != nil {
		return nil, err
	}
	if n == 0 || n > maxDims {
		return nil, p.errorf(ErrFormat, at, "%d dimensions, 1 to %d are allowed", n, maxDims)
	}
	b, err := p.take(8*uint64(n), "dimensions")
	if err != nil {
		return nil, err
	}
	start := len(all)
	for i := range int(n) {
		d := binary.LittleEndian.Uint64(b[8*i:])
		if d == 0 || d > math.MaxInt64 {
			return nil, p.errorf(ErrFormat, at+4+8*int64(i), "dimension %d is %d", i, int64(d))
		}
		all = append(all, d)
	}
	t.Dims = all[start:len(all):len(all)]
	return all, nil
}
