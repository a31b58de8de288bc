package main

import (
	"fmt"
	"strings"
	"testing"
)

const sample = `// kernel: a_* Args
#pragma once

// How many.
constexpr uint32_t kMax = 0x10;
constexpr int32_t kLow = -3; // the least

struct Pair {
    uint8_t a;
    uint16_t b;
};

// The arguments.
struct Args {
    const void *__restrict__ x;   // [n]
    uint8_t tag;
    double d;
    Pair pairs[3];
    float m[2][2];
    Pair *out;
    uint8_t last;
};
`

func TestParseParams(t *testing.T) {
	p, err := parseParams(sample)
	if err != nil {
		t.Fatal(err)
	}
	args := p.byName["Args"]
	var got []string
	for _, f := range args.fields {
		got = append(got, fmt.Sprintf("%s@%d+%d", f.name, f.offset, f.size))
	}
	// By the rules of the C ABI for x86-64, by hand.
	want := "x@0+8 tag@8+1 d@16+8 pairs@24+12 m@36+16 out@56+8 last@64+1"
	if s := strings.Join(got, " "); s != want || args.size != 72 || args.align != 8 {
		t.Errorf("got %s, %d bytes, aligned to %d; want %s, 72, 8", s, args.size, args.align, want)
	}
	if pair := p.byName["Pair"]; pair.size != 4 || pair.align != 2 {
		t.Errorf("Pair: %d bytes, aligned to %d", pair.size, pair.align)
	}

	code, err := mirror(p, []tableRow{{family: "a", name: "a_b", params: "Args", size: 72, targets: []string{"sm_80"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"const Max uint32 = 0x10", "// Low: the least\nconst Low int32 = -3",
		"X     Ptr // [n]\n", "_     [7]byte\n	D     float64", "Pairs [3]Pair", "M     [2][2]float32\n	_     [4]byte\n	Out   Ptr",
		"Last  uint8\n	_     [7]byte\n}", `{Family: "a", Name: "a_b", Params: "Args", Size: 72, Targets: []string{"sm_80"}}`,
	} {
		if !strings.Contains(string(code), want) {
			t.Errorf("the mirror lacks %q:\n%s", want, code)
		}
	}
}

func TestParseParamsRefuses(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"struct A {\n};\n", "no fields"},
		{"struct A {\n    uint32_t x;\n", "does not end"},
		{"struct A {\n    uint32_t x, y;\n};\n", "not one field"},
		{"struct A {\n    uint32_t x : 3;\n};\n", "not one field"},
		{"struct A {\n    uint32_t x = 3;\n};\n", "not one field"},
		{"struct A {\n    unsigned int x;\n};\n", "not one field"},
		{"struct A {\n    size_t x;\n};\n", "unknown type size_t"},
		{"struct A {\n    bool x;\n};\n", "unknown type bool"},
		{"struct A {\n    B x;\n};\nstruct B {\n    int32_t y;\n};\n", "unknown type B"},
		{"struct A {\n    B *x;\n};\n", "unknown type B"},
		{"struct A {\n    const float x;\n};\n", "not const"},
		{"struct A {\n    float **x;\n};\n", "not one field"},
		{"struct A {\n    float x[0];\n};\n", "0 elements"},
		{"struct A {\n    float x[N];\n};\n", "not one field"},
		{"struct A {\n    float x[99999999999999999999];\n};\n", "elements"},
		{"struct A {\n    float x[4000];\n};\n", "elements"},
		{"struct A {\n    uint8_t x[4096];\n    uint8_t y;\n};\n", "4096 are the limit"},
		{"struct A {\n    float x;\n    float x;\n};\n", "both X"},
		{"struct A {\n    float a_b;\n    float a__b;\n};\n", "both AB"},
		{"struct A {\n    float x;\n};\nstruct A {\n    float x;\n};\n", "both A"},
		{"struct A {\n    float x;\n};\nconstexpr int32_t kA = 1;\n", "both A"},
		{"constexpr uint8_t kA = 256;\n", "not a decimal or hexadecimal uint8_t"},
		{"constexpr uint32_t kA = -1;\n", "not a decimal"},
		{"constexpr uint32_t kA = 010;\n", "not a decimal"},
		{"constexpr uint32_t kA = kB;\n", "neither"},
		{"#include \"x.h\"\n", "neither"},
		{"#define N 3\n", "neither"},
		{"typedef int x;\n", "neither"},
		{"/* struct A { */\n", "neither"},
		{"// \xff\n", "plain text"},
		{"#pragma once\r\n", "plain text"},
		{"// kernel: a\n", "not of the form"},
		{"// kernel: a[ A\n", "not of the form"},
		{"// kernel: a A\n", "not there"},
		{"// kernel: a A\n// kernel: a A\nstruct A {\n    float x;\n};\n", "twice"},
	} {
		if _, err := parseParams(test.text); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want an error that says %q", test.text, err, test.want)
		}
	}
}

func TestBind(t *testing.T) {
	p, err := parseParams("// kernel: mul_* A\n// kernel: mul_q4_* B\nstruct A {\n    float x;\n};\nstruct B {\n    float x;\n};\n")
	if err != nil {
		t.Fatal(err)
	}
	if d, err := p.bind("mul_f16"); err != nil || d.name != "A" {
		t.Errorf("mul_f16: %v, %v", d, err)
	}
	if _, err := p.bind("mul_q4_0"); err == nil {
		t.Error("two lines match mul_q4_0, and one was taken")
	}
	if _, err := p.bind("add"); err == nil {
		t.Error("no line matches add, and one was taken")
	}
}

// A family sees the structs that it names and those that they need, and no others.
func TestNeed(t *testing.T) {
	p, err := parseParams(sample)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ text, want string }{
		{"Args a;", "Pair Args"},
		{"int n = kMax;", "kMax"},
		{"Pair *p; // kLow", "kLow Pair"},
		{"Args_ kMaxx", ""},
	} {
		var names []string
		for _, d := range p.need(test.text) {
			names = append(names, d.name)
		}
		if got := strings.Join(names, " "); got != test.want {
			t.Errorf("%q needs %q, want %q", test.text, got, test.want)
		}
	}
}

func FuzzParseParams(f *testing.F) {
	f.Add(sample)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseParams(text)
		if err != nil {
			return
		}
		if _, err := mirror(p, nil); err != nil {
			t.Errorf("what was read gives no Go: %v", err)
		}
		// What the compiler is given says the same as the file.
		again, err := parseParams(declarations(p.decls))
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if checks(again.decls) != checks(p.decls) {
			t.Error("read again, it has another layout")
		}
	})
}
