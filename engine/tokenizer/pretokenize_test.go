package tokenizer

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unicode/utf8"
)

func readJSON(t *testing.T, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}

// TestClasses compares the class of every character with the regular
// expression engine of the reference tokenizers.
func TestClasses(t *testing.T) {
	var golden struct{ Letter, Number, Mark, Space [][2]rune }
	readJSON(t, "classes.json", &golden)
	want := make([]class, utf8.MaxRune+1)
	for c, ranges := range map[class][][2]rune{letter: golden.Letter, number: golden.Number, mark: golden.Mark, space: golden.Space} {
		if len(ranges) < 8 {
			t.Fatalf("class %d has only %d ranges", c, len(ranges))
		}
		for _, r := range ranges {
			for x := r[0]; x <= r[1]; x++ {
				want[x] = c
			}
		}
	}
	for r := rune(0); r <= utf8.MaxRune; r++ {
		if r >= 0xd800 && r < 0xe000 {
			continue // surrogates are not characters
		}
		if got, size := classAt([]byte(string(r))); got != want[r] || size != utf8.RuneLen(r) {
			t.Errorf("U+%04X: class %d of %d bytes, want %d", r, got, size, want[r])
		}
	}
}

// TestWords compares the words of random texts with the tokenizers package's.
func TestWords(t *testing.T) {
	var golden struct {
		Texts []string
		Words map[string][][]int
	}
	readJSON(t, "words.json", &golden)
	if len(golden.Words) != 5 || len(golden.Texts) < 500 {
		t.Fatalf("%d pre-tokenizers, %d texts", len(golden.Words), len(golden.Texts))
	}
	for name, words := range golden.Words {
		p, err := findPreTokenizer(name)
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range golden.Texts {
			if got := cut(t, p, []byte(text)); !slices.Equal(got, words[i]) {
				t.Errorf("%s: %q\n got %v\nwant %v", name, text, got, words[i])
			}
		}
	}
}

// cut gives the number of characters of each word.
func cut(t *testing.T, p *preTokenizer, text []byte) []int {
	var words []int
	for len(text) > 0 {
		n := p.word(p, text)
		if n <= 0 || n > len(text) {
			t.Fatalf("%s: a word of %d bytes in %q", p.name, n, text)
		}
		words = append(words, utf8.RuneCount(text[:n]))
		text = text[n:]
	}
	return words
}

// TestNextWord looks at single cases by eye, bytes that are not UTF-8 among
// them, which the reference tokenizers do not take.
func TestNextWord(t *testing.T) {
	for _, c := range []struct{ pre, text, word string }{
		{"gpt-2", "it's", "it"},
		{"gpt-2", "'sick", "'s"},
		{"gpt-2", "'S", "'"},
		{"qwen2", "'S", "'S"},
		{"qwen2", "'ſt", "'ſ"},
		{"gpt-2", " 12a", " 12"},
		{"smollm", " 12a", " "},
		{"smollm", "   1", "   "},
		{"gpt-2", "   1", "  "},
		{"smollm", "12", "1"},
		{"llama-bpe", "12345", "123"},
		{"llama-bpe", "١٢٣٤", "١٢٣"},
		{"qwen2", "12", "1"},
		{"qwen2", "\tword", "\tword"},
		{"gpt-2", "\tword", "\t"},
		{"qwen2", "  \n  x", "  \n"},
		{"qwen2", "!?\r\n\nx", "!?\r\n\n"},
		{"gpt-2", "!?\n", "!?"},
		{"qwen2", "\nx", "\n"},
		{"qwen2", "e\u0301a", "e"},
		{"qwen35", "e\u0301a", "e\u0301a"},
		{"qwen2", "\u0301a", "\u0301a"},
		{"qwen2", "\xffa", "\xffa"},
		{"qwen2", "\xff\xfe a", "\xff\xfe"},
		{"gpt-2", " \xff\xc3 a", " \xff\xc3"},
		{"gpt-2", "\xe2\x82", "\xe2\x82"},
		{"qwen2", "\xed\xa0\x80x", "\xed\xa0\x80"}, // a surrogate is three stray bytes
	} {
		p, err := findPreTokenizer(c.pre)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.text[:p.word(p, []byte(c.text))]; got != c.word {
			t.Errorf("%s: first word of %q is %q, want %q", c.pre, c.text, got, c.word)
		}
	}
}
