package tokenizer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"kigo/engine/gguf"
)

// alphabetTokens gives the 256 single-byte tokens in the order of the bytes.
func alphabetTokens() []string { return append([]string(nil), letters[:]...) }

func ptr[T any](v T) *T { return &v }

// small is a vocabulary of single bytes and a few more tokens; ids from 256.
func small(pre string, merges []string, special map[string]TokenType) Vocabulary {
	v := Vocabulary{Model: "gpt2", Pre: pre, Tokens: alphabetTokens(), Merges: merges}
	for _, m := range merges {
		v.Tokens = append(v.Tokens, strings.Replace(m, " ", "", 1))
	}
	v.Types = slices.Repeat([]TokenType{Normal}, len(v.Tokens))
	names := make([]string, 0, len(special))
	for name := range special {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		v.Tokens = append(v.Tokens, name)
		v.Types = append(v.Types, special[name])
	}
	return v
}

func mustNew(t *testing.T, v Vocabulary) *Tokenizer {
	t.Helper()
	tok, err := New(v)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// pieces encodes text and shows the tokens' own texts, separated by |.
func pieces(tok *Tokenizer, text string, opt EncodeOptions) string {
	var parts []string
	for _, id := range tok.Encode([]byte(text), opt) {
		parts = append(parts, string(tok.AppendPiece(nil, id, true)))
	}
	return strings.Join(parts, "|")
}

func TestMergeOrder(t *testing.T) {
	// By rank first, then from the left.
	v := small("gpt-2", []string{"b c", "a b", "a bc", "a a", "aa aa"}, nil)
	tok := mustNew(t, v)
	for text, want := range map[string]string{
		"abc":     "abc",
		"ab":      "ab",
		"aab":     "a|ab",
		"aaaaa":   "aaaa|a",
		"aaa":     "aa|a",
		"abcabab": "abc|ab|ab",
	} {
		if got := pieces(tok, text, EncodeOptions{}); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestMergesLikeTheDefinition compares the heap with byte-pair encoding as it
// is defined: look at all pairs, join the first of lowest rank, begin again.
func TestMergesLikeTheDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{smolLM2, qwen} {
		m := load(t, name).model.(*byteLevel)
		alphabets := []string{"aehilnorst", "abc ", " \n\t", "=-_", "漢字かな", "\x00\xff\xc3\xe2"}
		for range 3000 {
			alphabet := alphabets[rng.IntN(len(alphabets))]
			word := make([]byte, 2+rng.IntN(40))
			for i := range word {
				word[i] = alphabet[rng.IntN(len(alphabet))]
			}
			if got, want := m.append(nil, word, &merger{}), mergeByDefinition(m, word); !slices.Equal(got, want) {
				t.Fatalf("%s: %q: %v, want %v", name, word, got, want)
			}
		}
	}
}

func mergeByDefinition(m *byteLevel, word []byte) []int32 {
	var ids []int32
	for _, b := range word {
		ids = append(ids, m.byteID[b])
	}
	for {
		best, at, joined := uint32(noRank), -1, int32(-1)
		for i := 0; i+1 < len(ids); i++ {
			if ids[i] < 0 || ids[i+1] < 0 {
				continue
			}
			if rank, id := m.merges.find(ids[i], ids[i+1]); rank < best {
				best, at, joined = rank, i, id
			}
		}
		if at < 0 {
			return slices.DeleteFunc(ids, func(id int32) bool { return id < 0 })
		}
		ids[at] = joined
		ids = slices.Delete(ids, at+1, at+2)
	}
}

func TestLesson_SpecialTokensAreNotSplit(t *testing.T) {
	v := small("gpt-2", nil, map[string]TokenType{
		"<s>": Control, "<s>x": Control, "<unk>": Unknown, "@@": UserDefined, "@@@": UserDefined, "[PAD]": Unused,
	})
	tok := mustNew(t, v)
	for _, c := range []struct {
		text           string
		plain, special string
	}{
		{"a<s>b", "a|<|s|>|b", "a|<s>|b"},
		{"<s>xy", "<|s|>|x|y", "<s>x|y"}, // the longest
		{"<s><s>", "<|s|>|<|s|>", "<s>|<s>"},
		{"<unk>", "<|u|n|k|>", "<unk>"},
		{"a@@@@b", "a|@@@|@|b", "a|@@@|@|b"}, // user-defined ones always
		{"@@@@@", "@@@|@@", "@@@|@@"},
		{"[PAD]", "[|P|A|D|]", "[|P|A|D|]"},
		{"<s", "<|s", "<|s"},
	} {
		if got := pieces(tok, c.text, EncodeOptions{}); got != c.plain {
			t.Errorf("%s: %s, want %s", c.text, got, c.plain)
		}
		if got := pieces(tok, c.text, EncodeOptions{ParseSpecial: true}); got != c.special {
			t.Errorf("%s with special tokens: %s, want %s", c.text, got, c.special)
		}
	}
	for name, plain := range map[string]string{"<s>": "", "<unk>": "", "@@": "@@", "[PAD]": ""} {
		id := int32(slices.Index(v.Tokens, name))
		if got := string(tok.AppendPiece(nil, id, false)); got != plain {
			t.Errorf("piece of %s is %q, want %q", name, got, plain)
		}
	}
}

func TestWholeWordsAreNeverControlTokens(t *testing.T) {
	v := small("llama-bpe", nil, map[string]TokenType{"hello": Control, "world": Normal})
	v.BOS = ptr(int32(0))
	tok := mustNew(t, v)
	if got := pieces(tok, "hello", EncodeOptions{}); got != "h|e|l|l|o" {
		t.Errorf("a control token was made of text: %s", got)
	}
	if got := pieces(tok, "world", EncodeOptions{}); got != "world" {
		t.Errorf("a whole word became %s", got)
	}
}

func TestAddSpecial(t *testing.T) {
	for _, c := range []struct {
		name           string
		pre            string
		addBOS, addEOS *bool
		want           string
	}{
		{"gpt-2 adds nothing by itself", "gpt-2", nil, nil, "x"},
		{"llama-bpe adds BOS by itself", "llama-bpe", nil, nil, "<s>|x"},
		{"unless the file says no", "llama-bpe", ptr(false), nil, "x"},
		{"the file asks for both", "gpt-2", ptr(true), ptr(true), "<s>|x|</s>"},
		{"the file asks for EOS", "qwen2", ptr(false), ptr(true), "x|</s>"},
	} {
		v := small(c.pre, nil, map[string]TokenType{"<s>": Control, "</s>": Control})
		v.BOS, v.EOS = ptr(int32(257)), ptr(int32(256))
		v.AddBOS, v.AddEOS = c.addBOS, c.addEOS
		tok := mustNew(t, v)
		if got := pieces(tok, "x", EncodeOptions{AddSpecial: true}); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if got := pieces(tok, "x", EncodeOptions{}); got != "x" {
			t.Errorf("%s: %s without AddSpecial", c.name, got)
		}
	}
}

func TestEndsOfGeneration(t *testing.T) {
	v := small("gpt-2", nil, map[string]TokenType{
		"<|im_end|>": Control, "<|endoftext|>": Control, "</s>": Normal, "<|eot_id|>": UserDefined,
		"<|end|>": Control, "<|im_start|>": Control, "<x>": Control, "<y>": Control, "<z>": Control,
	})
	id := func(name string) *int32 { return ptr(int32(slices.Index(v.Tokens, name))) }
	v.EOS, v.EOT, v.EndsOfFile = id("<x>"), id("<y>"), []*int32{nil, id("<z>")}
	check := func(want ...string) {
		t.Helper()
		tok := mustNew(t, v)
		var got []string
		for _, e := range tok.EOG() {
			got = append(got, v.Tokens[e])
		}
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("ends are %q, want %q", got, want)
		}
		for i, name := range v.Tokens {
			if tok.IsEOG(int32(i)) != slices.Contains(want, name) {
				t.Errorf("IsEOG of %s is %t", name, tok.IsEOG(int32(i)))
			}
		}
	}
	check("<|im_end|>", "<|endoftext|>", "<|end|>", "<x>", "<y>", "<z>")
	v.Tokens = append(v.Tokens, "<|return|>", "<|call|>")
	v.Types = append(v.Types, Control, Control)
	check("<|im_end|>", "<|endoftext|>", "<|return|>", "<|call|>", "<x>", "<y>", "<z>")
}

// TestBytesWithoutUTF8 takes the golden cases that are not UTF-8: the
// references lose bytes, Kigo must not.
func TestBytesWithoutUTF8(t *testing.T) {
	for _, name := range []string{"smollm2", "qwen2", "gpt-2", "llama-bpe"} {
		g := readGolden(t, name)
		tok := load(t, g.File)
		cases := 0
		for _, c := range g.Cases {
			if c.Hex == nil {
				continue
			}
			cases++
			text, err := hex.DecodeString(*c.Hex)
			if err != nil {
				t.Fatal(err)
			}
			checkRoundTrip(t, tok, text)
		}
		if cases == 0 {
			t.Errorf("%s: no such case", name)
		}
	}
}

// checkRoundTrip checks that decoding gives the text back, but for single
// bytes that the vocabulary has no token for.
func checkRoundTrip(t *testing.T, tok *Tokenizer, text []byte) {
	t.Helper()
	m := tok.model.(*byteLevel)
	want := slices.DeleteFunc(slices.Clone(text), func(b byte) bool { return m.byteID[b] < 0 })
	if lossless := tok.FirstUnencodable(text) < 0; lossless != (len(want) == len(text)) {
		t.Fatalf("FirstUnencodable of %q is %d", text, tok.FirstUnencodable(text))
	}
	for _, opt := range []EncodeOptions{{}, {ParseSpecial: true}} {
		ids := tok.Encode(text, opt)
		got, err := tok.Decode(ids, opt.ParseSpecial)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%s %+v: %q came back as %q (%v)", tok.Name(), opt, text, got, ids)
		}
	}
}

// The test also states which bytes each vocabulary lacks: the
// published ones of SmolLM2 were trained without them.
func TestLesson_EveryByteComesBack(t *testing.T) {
	for name, lacking := range map[string]string{
		qwen:                              "",
		"vocab/ggml-vocab-gpt-2.gguf":     "",
		"vocab/ggml-vocab-llama-bpe.gguf": "",
		smolLM2:                           "\x04\x06\x13\x14\x16\x1d\xc0\xc1\xf1\xf2\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
	} {
		tok := load(t, name)
		got := ""
		for b := range 256 {
			one := []byte{byte(b)}
			checkRoundTrip(t, tok, one)
			if tok.FirstUnencodable(one) >= 0 {
				got += string(one)
			}
		}
		if got != lacking {
			t.Errorf("%s lacks %q, want %q", name, got, lacking)
		}
		if at := tok.FirstUnencodable([]byte("abc\x04")); at >= 0 != (lacking != "") || at >= 0 && at != 3 {
			t.Errorf("%s: FirstUnencodable is %d", name, at)
		}
	}
}

// TestLinearOnHostileText counts the steps of the merge loop: n log n may
// grow 2.2-fold when a text of this size doubles. That cutting into words is
// linear shows in the test ending at all: the texts of white space and line
// ends are the ones that a careless scanner reads again and again.
func TestLinearOnHostileText(t *testing.T) {
	texts := []string{"a", " ", "^", "_", "漢", "\u0301", "\n", "\n ", " \r\n\t", "'", "'s", "1", "\xff", "\U000378AB", "a ", "é"}
	for _, name := range []string{smolLM2, qwen, "vocab/ggml-vocab-llama-bpe.gguf"} {
		m := load(t, name).model.(*byteLevel)
		for _, unit := range texts {
			var last int
			for _, size := range []int{1 << 16, 1 << 17} {
				text := []byte(strings.Repeat(unit, size/len(unit)))
				if unit == "\n" {
					text = append(text, strings.Repeat(" ", size)...) // a line end far back in white space
				}
				var work merger
				ids := m.appendWords(nil, text, &work)
				if len(ids) == 0 && m.byteID[unit[0]] >= 0 {
					t.Fatalf("%s: no tokens for %q", name, unit)
				}
				if last > 0 && float64(work.ops) > 2.3*float64(last) {
					t.Errorf("%s: %q: %d steps for %d bytes, %d for half of them", name, unit, work.ops, len(text), last)
				}
				last = work.ops
			}
		}
	}
}

func TestDecodeNamesTheBadID(t *testing.T) {
	tok := mustNew(t, small("gpt-2", nil, nil))
	for _, bad := range []int32{-1, 256, 1 << 30} {
		_, err := tok.Decode([]int32{1, bad}, true)
		if !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), "index 1") {
			t.Errorf("id %d: %v", bad, err)
		}
		if got := tok.AppendPiece([]byte("x"), bad, true); string(got) != "x" {
			t.Errorf("id %d has the piece %q", bad, got[1:])
		}
		if tok.IsEOG(bad) {
			t.Errorf("id %d ends a generation", bad)
		}
	}
}

// TestMalformed goes through what a hostile or broken file can hold.
func TestMalformed(t *testing.T) {
	good := func() map[string]gguf.Value {
		tokens := append(alphabetTokens(), "ab", "abc", "<s>")
		types := slices.Repeat([]int32{1}, len(tokens))
		types[len(types)-1] = 3
		return map[string]gguf.Value{
			"tokenizer.ggml.model":        gguf.ValueOf("gpt2"),
			"tokenizer.ggml.pre":          gguf.ValueOf("gpt-2"),
			"tokenizer.ggml.tokens":       gguf.ArrayOf(tokens),
			"tokenizer.ggml.token_type":   gguf.ArrayOf(types),
			"tokenizer.ggml.merges":       gguf.ArrayOf([]string{"a b", "ab c"}),
			"tokenizer.ggml.bos_token_id": gguf.ValueOf(uint32(258)),
		}
	}
	build := func(change map[string]gguf.Value, remove ...string) error {
		kvs := good()
		for k, v := range change {
			kvs["tokenizer.ggml."+k] = v
		}
		for _, k := range remove {
			delete(kvs, "tokenizer.ggml."+k)
		}
		f := &gguf.File{}
		for k, v := range kvs {
			f.KVs = append(f.KVs, gguf.KV{Key: k, Value: v})
		}
		_, err := FromGGUF(f)
		return err
	}
	if err := build(nil); err != nil {
		t.Fatalf("the file that the cases change is refused: %v", err)
	}
	if err := build(nil, "token_type", "bos_token_id"); err != nil {
		t.Fatalf("a file without token types is refused: %v", err)
	}
	type kvs = map[string]gguf.Value
	tokens := func(extra ...string) gguf.Value {
		return gguf.ArrayOf(append(append(alphabetTokens(), "ab", "abc"), extra...))
	}
	for _, c := range []struct {
		name   string
		change kvs
		remove string
		want   error
		says   string
	}{
		{"no model", nil, "model", ErrVocabulary, "no tokenizer"},
		{"SentencePiece", kvs{"model": gguf.ValueOf("llama")}, "", ErrUnsupported, `"llama"`},
		{"model of the wrong type", kvs{"model": gguf.ValueOf(uint32(1))}, "", ErrVocabulary, "tokenizer.ggml.model"},
		{"no pre-tokenizer", nil, "pre", ErrUnsupported, "tokenizer.ggml.pre"},
		{"unknown pre-tokenizer", kvs{"pre": gguf.ValueOf("gpt-5")}, "", ErrUnsupported, `"gpt-5"`},
		{"no tokens", nil, "tokens", ErrVocabulary, "no tokens"},
		{"empty tokens", kvs{"tokens": gguf.ArrayOf([]string{}), "token_type": gguf.ArrayOf([]int32{})}, "", ErrVocabulary, "no tokens"},
		{"tokens of the wrong type", kvs{"tokens": gguf.ArrayOf([]int32{1})}, "", ErrVocabulary, "tokenizer.ggml.tokens"},
		{"duplicate token", kvs{"tokens": tokens("ab")}, "", ErrVocabulary, `tokens 256 and 258 are both "ab"`},
		{"too few types", kvs{"token_type": gguf.ArrayOf([]int32{1, 1})}, "", ErrVocabulary, "2 token types for 259 tokens"},
		{"type 0", kvs{"token_type": gguf.ArrayOf(make([]int32, 259))}, "", ErrVocabulary, "token 0"},
		{"type 6, a byte", kvs{"token_type": gguf.ArrayOf(slices.Repeat([]int32{6}, 259))}, "", ErrVocabulary, "type 6"},
		{"types of the wrong type", kvs{"token_type": gguf.ArrayOf([]float32{1})}, "", ErrVocabulary, "token_type"},
		{"a control token of 1,000 bytes", kvs{"tokens": tokens(strings.Repeat("x", 1000))}, "", ErrVocabulary, "1000 bytes"},
		{"no merges", nil, "merges", ErrVocabulary, "tokenizer.ggml.merges"},
		{"merges of the wrong type", kvs{"merges": gguf.ValueOf("a b")}, "", ErrVocabulary, "merges"},
		{"left part absent", kvs{"merges": gguf.ArrayOf([]string{"a b", "xy c"})}, "", ErrVocabulary, `merge 1 ("xy c") names "xy"`},
		{"right part absent", kvs{"merges": gguf.ArrayOf([]string{"a bb"})}, "", ErrVocabulary, `names "bb"`},
		{"result absent", kvs{"merges": gguf.ArrayOf([]string{"b a"})}, "", ErrVocabulary, `makes "ba"`},
		{"duplicate merge", kvs{"merges": gguf.ArrayOf([]string{"a b", "ab c", "a b"})}, "", ErrVocabulary, "merges 0 and 2"},
		{"merge without a space", kvs{"merges": gguf.ArrayOf([]string{"ab"})}, "", ErrVocabulary, "merge 0"},
		{"empty merge", kvs{"merges": gguf.ArrayOf([]string{""})}, "", ErrVocabulary, "merge 0"},
		{"merge of a space", kvs{"merges": gguf.ArrayOf([]string{" "})}, "", ErrVocabulary, "merge 0"},
		{"merge without a left part", kvs{"merges": gguf.ArrayOf([]string{" b"})}, "", ErrVocabulary, "merge 0"},
		{"merge without a right part", kvs{"merges": gguf.ArrayOf([]string{"a "})}, "", ErrVocabulary, "merge 0"},
		{"scores of the wrong type", kvs{"scores": gguf.ArrayOf(make([]int8, 259))}, "", ErrVocabulary, "scores"},
		{"too few scores", kvs{"scores": gguf.ArrayOf([]float32{0})}, "", ErrVocabulary, "1 scores for 259 tokens"},
		{"bos outside", kvs{"bos_token_id": gguf.ValueOf(uint32(259))}, "", ErrVocabulary, "bos token is 259"},
		{"eos far outside", kvs{"eos_token_id": gguf.ValueOf(uint64(1 << 40))}, "", ErrVocabulary, "eos"},
		{"eot negative", kvs{"eot_token_id": gguf.ValueOf(int32(-1))}, "", ErrVocabulary, "eot"},
		{"eom a text", kvs{"eom_token_id": gguf.ValueOf("x")}, "", ErrVocabulary, "eom"},
		{"fim_pad outside", kvs{"fim_pad_token_id": gguf.ValueOf(uint32(999))}, "", ErrVocabulary, "999"},
		{"bos to add, but none", kvs{"add_bos_token": gguf.ValueOf(true)}, "bos_token_id", ErrVocabulary, "bos"},
		{"eos to add, but none", kvs{"add_eos_token": gguf.ValueOf(true)}, "", ErrVocabulary, "eos"},
		{"add_bos_token a number", kvs{"add_bos_token": gguf.ValueOf(uint8(1))}, "", ErrVocabulary, "add_bos_token"},
	} {
		err := build(c.change, c.remove)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %v with %s", c.name, err, c.want, c.says)
		}
		if len(err.Error()) > 400 {
			t.Errorf("%s: the error has %d bytes", c.name, len(err.Error()))
		}
	}
}

func TestEmptyTokensAreAllowed(t *testing.T) {
	v := small("gpt-2", nil, nil)
	v.Tokens = append(v.Tokens, "", "")
	v.Types = append(v.Types, Unused, Normal)
	tok := mustNew(t, v)
	if got := pieces(tok, "ab", EncodeOptions{}); got != "a|b" {
		t.Error(got)
	}
	if got := tok.AppendPiece(nil, 257, true); len(got) != 0 {
		t.Errorf("an empty token has the piece %q", got)
	}
}

// TestUnreadableText: a normal token with characters outside the byte-level
// alphabet stands for its own text.
func TestUnreadableText(t *testing.T) {
	tok := mustNew(t, small("gpt-2", nil, map[string]TokenType{"é漢": Normal, "Ġx": Normal}))
	for id, want := range map[int32]string{256: "é漢", 257: " x"} {
		if got := string(tok.AppendPiece(nil, id, false)); got != want {
			t.Errorf("piece of %d is %q, want %q", id, got, want)
		}
	}
}
