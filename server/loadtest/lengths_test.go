package loadtest

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestParseLengths(t *testing.T) {
	for _, c := range []struct {
		text      string
		min, max  int
		mean      float64
		tolerance float64
	}{
		{"128", 128, 128, 128, 0},
		{"64-512", 64, 512, 288, 6},
		{"100:0.9,2000:0.1", 100, 2000, 290, 25},
		{"100:9,2000:1", 100, 2000, 290, 25}, // weights are relative
		{"10,20,30", 10, 30, 20, 0.5},
		{"1-1", 1, 1, 1, 0},
		{"7-9:2,1048576:1e-9", 7, 1 << 20, 8, 0.1},
	} {
		l, err := ParseLengths(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if l.String() != c.text || l.Min() != c.min || l.Max() != c.max {
			t.Errorf("%s is %s from %d to %d", c.text, l, l.Min(), l.Max())
		}
		r := rand.New(rand.NewPCG(1, 2))
		sum := 0
		for range 10000 {
			n := l.draw(r)
			if n < c.min || n > c.max {
				t.Fatalf("%s: drew %d", c.text, n)
			}
			sum += n
		}
		if mean := float64(sum) / 10000; math.Abs(mean-c.mean) > c.tolerance {
			t.Errorf("%s: the mean of 10,000 is %v, want %v", c.text, mean, c.mean)
		}
	}
	for text, want := range map[string]string{
		"":                             "a length is a number",
		"0":                            "a length is a number from 1",
		"-5":                           "a length is a number",
		"1048577":                      "a length is a number from 1 to 1048576",
		"99999999999999999999":         "a length is a number",
		"5-":                           "a length is a number",
		"9-8":                          "ends before it begins",
		"5:":                           "weight",
		"5:0":                          "weight",
		"5:-1":                         "weight",
		"5:NaN":                        "weight",
		"5:Inf":                        "weight",
		"5,":                           "a length is a number",
		"5;6":                          "a length is a number",
		strings.Repeat("1,", 32) + "1": "33 lengths, at most 32",
	} {
		if _, err := ParseLengths(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	var l Lengths
	if l.Min() != 0 || l.Max() != 0 {
		t.Error("the zero value has lengths")
	}
	if l.Set("7") != nil || l.Set("x") == nil || l.String() != "7" {
		t.Errorf("after a mistake it is %s", l)
	}
}

func FuzzParseLengths(f *testing.F) {
	for _, text := range []string{"128", "64-512", "100:0.9,2000:0.1", "1:1e-9,2:1e9", "5:0x1p-3", "1-1048576:3,,"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLengths(text)
		if err != nil {
			return
		}
		if l.Min() < 1 || l.Max() > maxLength || l.Min() > l.Max() || l.String() != text {
			t.Errorf("%q is %s from %d to %d", text, l, l.Min(), l.Max())
		}
		r := rand.New(rand.NewPCG(1, 2))
		for range 100 {
			if n := l.draw(r); n < l.Min() || n > l.Max() {
				t.Errorf("%q: drew %d", text, n)
			}
		}
	})
}
