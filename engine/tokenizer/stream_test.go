package tokenizer

import (
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestStream feeds bytes one, two or three at a time and compares with what
// Python makes of them all at once.
func TestLesson_StreamingNeverGivesHalfARune(t *testing.T) {
	var golden struct{ Cases [][2]string }
	readJSON(t, "utf8.json", &golden)
	if len(golden.Cases) < 300 {
		t.Fatalf("only %d cases", len(golden.Cases))
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for _, c := range golden.Cases {
		data, err := hex.DecodeString(c[0])
		if err != nil {
			t.Fatal(err)
		}
		for most := 1; most <= 3; most++ {
			// A vocabulary whose tokens are the parts that the data is cut into.
			v := small("gpt-2", nil, nil)
			var ids []int32
			for rest := data; len(rest) > 0; {
				n := min(1+rng.IntN(most), len(rest))
				ids = append(ids, addPiece(&v, rest[:n]))
				rest = rest[n:]
			}
			s := mustNew(t, v).NewStream(false)
			var got strings.Builder
			for _, id := range ids {
				text, err := s.Push(id)
				if err != nil {
					t.Fatal(err)
				}
				if !utf8.ValidString(text) {
					t.Fatalf("%s: %q is not UTF-8", c[0], text)
				}
				got.WriteString(text)
			}
			got.WriteString(s.Flush())
			if got.String() != c[1] {
				t.Errorf("%s in parts of up to %d: %q, want %q", c[0], most, got.String(), c[1])
			}
			if again := s.Flush(); again != "" {
				t.Errorf("%s: a second Flush gives %q", c[0], again)
			}
		}
	}
}

// addPiece gives the token for some bytes, a new one if need be.
func addPiece(v *Vocabulary, piece []byte) int32 {
	text := string(appendLetters(nil, piece))
	for id, have := range v.Tokens {
		if have == text {
			return int32(id)
		}
	}
	v.Tokens = append(v.Tokens, text)
	v.Types = append(v.Types, Normal)
	return int32(len(v.Tokens) - 1)
}

func TestStreamHoldsBackNoMoreThanItMust(t *testing.T) {
	v := small("gpt-2", nil, map[string]TokenType{"<s>": Control})
	tok := mustNew(t, v)
	for _, special := range []bool{false, true} {
		s := tok.NewStream(special)
		steps := []struct {
			id   int32
			want string
		}{
			{'a', "a"}, {0xe2, ""}, {0x82, ""}, {0xac, "€"}, {0xf0, ""}, {0x9f, ""}, {'b', "\ufffdb"}, {0xff, "\ufffd"}, {256, ""},
		}
		if special {
			steps[len(steps)-1].want = "<s>"
		}
		for i, step := range steps {
			got, err := s.Push(step.id)
			if err != nil || got != step.want {
				t.Errorf("step %d: %q, %v; want %q", i, got, err, step.want)
			}
		}
		if _, err := s.Push(257); !errors.Is(err, ErrToken) {
			t.Errorf("a bad id: %v", err)
		}
		if got := s.Flush(); got != "" {
			t.Errorf("Flush gives %q", got)
		}
	}
}
