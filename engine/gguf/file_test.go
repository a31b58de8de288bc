package gguf_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"kigo/engine/gguf"
)

// accessors calls each typed accessor by name.
var accessors = map[string]func(f *gguf.File, key string) (any, bool, error){
	"String":  func(f *gguf.File, k string) (any, bool, error) { return wrap(f.String(k)) },
	"Uint":    func(f *gguf.File, k string) (any, bool, error) { return wrap(f.Uint(k)) },
	"Int":     func(f *gguf.File, k string) (any, bool, error) { return wrap(f.Int(k)) },
	"Float":   func(f *gguf.File, k string) (any, bool, error) { return wrap(f.Float(k)) },
	"Bool":    func(f *gguf.File, k string) (any, bool, error) { return wrap(f.Bool(k)) },
	"Strings": func(f *gguf.File, k string) (any, bool, error) { return wrap(f.Strings(k)) },
	"Ints":    func(f *gguf.File, k string) (any, bool, error) { return wrap(f.Ints(k)) },
	"Floats":  func(f *gguf.File, k string) (any, bool, error) { return wrap(f.Floats(k)) },
}

func wrap[T any](v T, ok bool, err error) (any, bool, error) { return v, ok, err }

// accessible lists what each key of the golden file gives through the accessors
// that take its type; all others must refuse it.
var accessible = map[string]map[string]any{
	"scalar.uint8":   {"Uint": uint64(255), "Int": int64(255)},
	"scalar.int8":    {"Int": int64(-128)},
	"scalar.uint16":  {"Uint": uint64(65535), "Int": int64(65535)},
	"scalar.int16":   {"Int": int64(-32768)},
	"scalar.uint32":  {"Uint": uint64(math.MaxUint32), "Int": int64(math.MaxUint32)},
	"scalar.int32":   {"Int": int64(math.MinInt32)},
	"scalar.float32": {"Float": float64(float32(0.1))},
	"scalar.bool":    {"Bool": true},
	"scalar.string":  {"String": "春の水\n"},
	"scalar.uint64":  {"Uint": uint64(math.MaxUint64)},
	"scalar.int64":   {"Int": int64(math.MinInt64)},
	"scalar.float64": {"Float": 0.1},
	"array.uint8":    {"Ints": []int32{0, 255}},
	"array.int8":     {"Ints": []int32{-128, 127}},
	"array.uint16":   {"Ints": []int32{0, 65535}},
	"array.int16":    {"Ints": []int32{-32768, 32767}},
	"array.uint32":   {},
	"array.int32":    {"Ints": []int32{math.MinInt32, math.MaxInt32}},
	"array.float32":  {"Floats": []float32{0.1, -1e30}},
	"array.bool":     {},
	"array.string":   {"Strings": []string{"", "a", "蛙", "🌸"}},
	"array.uint64":   {},
	"array.int64":    {},
	"array.float64":  {"Floats": []float32{0.1, float32(math.Inf(-1))}},
}

func TestAccessors(t *testing.T) {
	f, err := parse(golden(t, "values.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	for name, get := range accessors {
		if _, ok, err := get(f, "absent"); ok || err != nil {
			t.Errorf("%s(absent): ok %v, %v", name, ok, err)
		}
		for key, gives := range accessible {
			got, ok, err := get(f, key)
			want, fits := gives[name]
			switch {
			case fits && (err != nil || !ok || fmt.Sprint(got) != fmt.Sprint(want)):
				t.Errorf("%s(%s) = %v, %v, %v; want %v", name, key, got, ok, err, want)
			case !fits && (!errors.Is(err, gguf.ErrFormat) || ok):
				t.Errorf("%s(%s) = %v, %v, %v; want ErrFormat", name, key, got, ok, err)
			case !fits && !strings.Contains(err.Error(), key):
				t.Errorf("%s(%s): %q does not name the key", name, key, err)
			}
		}
	}
	_, _, err = f.Uint("array.string")
	if want := `key "array.string": want an integer, found an array of 4 string`; !strings.Contains(err.Error(), want) {
		t.Errorf("%q does not say %q", err, want)
	}
}

// Arrays and strings that go over the ends of the pieces in which a header is
// read come back whole.
func TestLongArrays(t *testing.T) {
	var words []string
	for i := range 150_000 {
		words = append(words, strings.Repeat("ab", i%23)+fmt.Sprint(i))
	}
	words[70_000] = strings.Repeat("long", 1<<20)
	words[70_001] = ""
	numbers := make([]int32, 1<<20)
	for i := range numbers {
		numbers[i] = int32(i) * 2654435
	}
	text := strings.Repeat("x", 1<<20) + "end"
	data := write(t, []gguf.KV{
		{Key: "words", Value: gguf.ArrayOf(words)},
		{Key: "numbers", Value: gguf.ArrayOf(numbers)},
		{Key: "text", Value: gguf.ValueOf(text)},
		{Key: "none", Value: gguf.ArrayOf([]string{})},
		{Key: "words again", Value: gguf.ArrayOf(words)},
	}, nil, nil)
	f, err := parse(data)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"words", "words again"} {
		if got, ok, err := f.Strings(key); !ok || err != nil || !slices.Equal(got, words) {
			t.Errorf("%s differ: %v %v", key, ok, err)
		}
	}
	if got, ok, err := f.Ints("numbers"); !ok || err != nil || !slices.Equal(got, numbers) {
		t.Errorf("numbers differ: %v %v", ok, err)
	}
	if got, ok, err := f.String("text"); !ok || err != nil || got != text {
		t.Errorf("text differs: %v %v", ok, err)
	}
	if got, ok, err := f.Strings("none"); !ok || err != nil || len(got) != 0 {
		t.Errorf("none: %v %v %v", got, ok, err)
	}
}
