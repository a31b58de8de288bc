package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// ValueType is the type of a metadata value: the number that GGUF gives it.
type ValueType uint32

// The types of metadata values.
const (
	Uint8   ValueType = 0
	Int8    ValueType = 1
	Uint16  ValueType = 2
	Int16   ValueType = 3
	Uint32  ValueType = 4
	Int32   ValueType = 5
	Float32 ValueType = 6
	Bool    ValueType = 7
	String  ValueType = 8
	Array   ValueType = 9
	Uint64  ValueType = 10
	Int64   ValueType = 11
	Float64 ValueType = 12
)

// valueTypes has a row per ValueType: its name, and the bytes of a value, 0 where
// they vary.
var valueTypes = [...]struct {
	name  string
	width int
}{
	Uint8: {"uint8", 1}, Int8: {"int8", 1}, Uint16: {"uint16", 2}, Int16: {"int16", 2},
	Uint32: {"uint32", 4}, Int32: {"int32", 4}, Float32: {"float32", 4}, Bool: {"bool", 1},
	String: {"string", 0}, Array: {"array", 0},
	Uint64: {"uint64", 8}, Int64: {"int64", 8}, Float64: {"float64", 8},
}

// String returns the type's name, "uint32".
func (t ValueType) String() string {
	if !t.known() {
		return fmt.Sprintf("value type %d", uint32(t))
	}
	return valueTypes[t].name
}

func (t ValueType) known() bool { return uint64(t) < uint64(len(valueTypes)) }

// width returns the bytes of a value of a known type, 0 for strings and arrays.
func (t ValueType) width() int { return valueTypes[t].width }

func (t ValueType) signed() bool {
	return t == Int8 || t == Int16 || t == Int32 || t == Int64
}

func (t ValueType) integer() bool {
	return t.signed() || t == Uint8 || t == Uint16 || t == Uint32 || t == Uint64
}

// Value is one metadata value: a number, a bool, a string or an array of those.
// The zero Value is the uint8 0.
type Value struct {
	typ ValueType
	num uint64 // a number's bits: integers widened to 64 with their sign, floats as they are
	str string
	arr *array
}

// array is an array's n elements as the file encodes them: texts for strings, in
// one or more pieces that each hold whole strings, else raw. Half a million
// strings are walked over once when a file is parsed, and become Go strings only
// when somebody asks.
type array struct {
	elem  ValueType
	n     int
	raw   []byte
	texts [][]byte
}

// Type returns the value's type.
func (v Value) Type() ValueType { return v.typ }

// Elem returns the type of an array's elements, and ok = false for other values.
func (v Value) Elem() (t ValueType, ok bool) {
	if v.typ != Array {
		return 0, false
	}
	return v.arr.elem, true
}

// Len returns the number of elements of an array, and 0 for other values.
func (v Value) Len() int {
	if v.typ != Array {
		return 0
	}
	return v.arr.n
}

// Any returns the value as the Go type of the same name, an array as a slice of
// that, which is the caller's.
func (v Value) Any() any {
	switch v.typ {
	case String:
		return v.str
	case Array:
		return v.arr.slice()
	}
	return scalar(v.typ, v.num)
}

// describe says what a value is, for an error: its type and, of an array, its
// length.
func (v Value) describe() string {
	if v.typ == Array {
		return fmt.Sprintf("an array of %d %s", v.arr.n, v.arr.elem)
	}
	return v.typ.String()
}

// bits returns element i of an array that is not of strings, as Value.num.
func (a *array) bits(i int) uint64 {
	return decode(a.elem, a.raw[i*a.elem.width():])
}

func (a *array) slice() any {
	switch a.elem {
	case Uint8:
		return elements[uint8](a)
	case Int8:
		return elements[int8](a)
	case Uint16:
		return elements[uint16](a)
	case Int16:
		return elements[int16](a)
	case Uint32:
		return elements[uint32](a)
	case Int32:
		return elements[int32](a)
	case Float32:
		return elements[float32](a)
	case Bool:
		return elements[bool](a)
	case Uint64:
		return elements[uint64](a)
	case Int64:
		return elements[int64](a)
	case Float64:
		return elements[float64](a)
	}
	return a.strings()
}

// strings returns the elements of an array of strings; they share its memory.
func (a *array) strings() []string {
	s := make([]string, 0, a.n)
	for _, b := range a.texts {
		for len(b) > 0 {
			end := 8 + binary.LittleEndian.Uint64(b)
			s = append(s, view(b[8:end]))
			b = b[end:]
		}
	}
	return s
}

func elements[T any](a *array) []T {
	s := make([]T, a.n)
	for i := range s {
		s[i] = scalar(a.elem, a.bits(i)).(T)
	}
	return s
}

// decode reads a number of type t from the start of b, as Value.num.
func decode(t ValueType, b []byte) uint64 {
	switch t {
	case Uint8, Bool:
		return uint64(b[0])
	case Int8:
		return uint64(int8(b[0]))
	case Uint16:
		return uint64(binary.LittleEndian.Uint16(b))
	case Int16:
		return uint64(int16(binary.LittleEndian.Uint16(b)))
	case Uint32, Float32:
		return uint64(binary.LittleEndian.Uint32(b))
	case Int32:
		return uint64(int32(binary.LittleEndian.Uint32(b)))
	}
	return binary.LittleEndian.Uint64(b)
}

// scalar gives a number's bits their Go type.
func scalar(t ValueType, bits uint64) any {
	switch t {
	case Uint8:
		return uint8(bits)
	case Int8:
		return int8(bits)
	case Uint16:
		return uint16(bits)
	case Int16:
		return int16(bits)
	case Uint32:
		return uint32(bits)
	case Int32:
		return int32(bits)
	case Float32:
		return math.Float32frombits(uint32(bits))
	case Bool:
		return bits != 0
	case Int64:
		return int64(bits)
	case Float64:
		return math.Float64frombits(bits)
	}
	return bits
}

// Element is a Go type that a metadata value, or an array's element, can have.
type Element interface {
	uint8 | int8 | uint16 | int16 | uint32 | int32 | float32 | bool | string | uint64 | int64 | float64
}

// ValueOf makes the value of the GGUF type that has the same name as x's type:
// ValueOf(uint32(32)), ValueOf("llama").
func ValueOf[T Element](x T) Value {
	switch x := any(x).(type) {
	case uint8:
		return Value{typ: Uint8, num: uint64(x)}
	case int8:
		return Value{typ: Int8, num: uint64(x)}
	case uint16:
		return Value{typ: Uint16, num: uint64(x)}
	case int16:
		return Value{typ: Int16, num: uint64(x)}
	case uint32:
		return Value{typ: Uint32, num: uint64(x)}
	case int32:
		return Value{typ: Int32, num: uint64(x)}
	case float32:
		return Value{typ: Float32, num: uint64(math.Float32bits(x))}
	case bool:
		var bit uint64
		if x {
			bit = 1
		}
		return Value{typ: Bool, num: bit}
	case string:
		return Value{typ: String, str: x}
	case int64:
		return Value{typ: Int64, num: uint64(x)}
	case float64:
		return Value{typ: Float64, num: math.Float64bits(x)}
	case uint64:
		return Value{typ: Uint64, num: x}
	}
	panic("gguf: ValueOf is incomplete") // Element has no other type
}

// ArrayOf makes an array value. It copies s.
func ArrayOf[T Element](s []T) Value {
	var zero T
	a := &array{elem: ValueOf(zero).typ, n: len(s)}
	var b []byte
	for _, x := range s {
		if v := ValueOf(x); v.typ == String {
			b = appendString(b, v.str)
		} else {
			b = appendNumber(b, v.typ, v.num)
		}
	}
	if a.elem == String {
		a.texts = [][]byte{b}
	} else {
		a.raw = b
	}
	return Value{typ: Array, arr: a}
}

// appendNumber is the inverse of decode.
func appendNumber(b []byte, t ValueType, bits uint64) []byte {
	switch t.width() {
	case 1:
		return append(b, byte(bits))
	case 2:
		return binary.LittleEndian.AppendUint16(b, uint16(bits))
	case 4:
		return binary.LittleEndian.AppendUint32(b, uint32(bits))
	}
	return binary.LittleEndian.AppendUint64(b, bits)
}
