package stop

import (
	"errors"
	"strings"
	"testing"
)

// naive looks at every end of the text for every stop string.
func naive(stops []string, text string) (emit string, which int) {
	for end := 1; end <= len(text); end++ {
		best := -1
		for i, s := range stops {
			if strings.HasSuffix(text[:end], s) && (best < 0 || len(s) > len(stops[best])) {
				best = i
			}
		}
		if best >= 0 {
			return text[:end-len(stops[best])], best
		}
	}
	return text, -1
}

// run pushes text in parts of the given sizes, over and over.
func run(t *testing.T, stops []string, text string, sizes []int) {
	t.Helper()
	m, err := New(stops)
	if err != nil {
		t.Fatal(err)
	}
	wantEmit, wantWhich := naive(stops, text)
	for range 2 { // a Matcher can be used again after Flush
		var emit, pushed strings.Builder
		which, rest := -1, text
		for i := 0; rest != "" && which < 0; i++ {
			n := min(max(sizes[i%len(sizes)], 0), len(rest))
			if n == 0 && i > len(sizes) {
				n = 1
			}
			part, stopped, w := m.Push(rest[:n])
			emit.WriteString(part)
			pushed.WriteString(rest[:n])
			rest = rest[n:]
			if stopped {
				which = w
				if again, stopped, w := m.Push("more"); again != "" || !stopped || w != which {
					t.Errorf("after the stop: %q, %t, %d", again, stopped, w)
				}
			}
			// Nothing is held back without need.
			if held := pushed.Len() - emit.Len(); which < 0 && held != longestBeginning(stops, pushed.String()) {
				t.Errorf("%q of %q: %d bytes held back, want %d", stops, pushed.String(), held, longestBeginning(stops, pushed.String()))
			}
		}
		emit.WriteString(m.Flush())
		if emit.String() != wantEmit || which != wantWhich {
			t.Errorf("%q in %q: %q and %d, want %q and %d", stops, text, emit.String(), which, wantEmit, wantWhich)
		}
	}
}

// longestBeginning is the length of the longest proper beginning of a stop
// string that text ends with.
func longestBeginning(stops []string, text string) int {
	longest := 0
	for _, s := range stops {
		for n := range len(s) {
			if n > longest && strings.HasSuffix(text, s[:n]) {
				longest = n
			}
		}
	}
	return longest
}

func TestMatcher(t *testing.T) {
	for _, c := range []struct {
		stops []string
		text  string
	}{
		{nil, "anything"},
		{[]string{"\n\n"}, "one\ntwo\n\nthree"},
		{[]string{"</s>"}, "a < b </ c </s"},
		{[]string{"</s>"}, "a</</s>b"},
		{[]string{"aab"}, "aaaaab"},
		{[]string{"abab", "abc"}, "abababc"},
		{[]string{"abcd", "bc"}, "abcd"}, // bc is complete first
		{[]string{"bc", "abc"}, "xabc"},  // both end here: the longest
		{[]string{"he", "she", "hers", "his"}, "ushers"},
		{[]string{"x", "x"}, "abcx"},
		{[]string{"é", "漢字"}, "èê漢漢字"},
		{[]string{"User:", "\nUser", "###"}, "Hi\nUse\nUser: #"},
		{[]string{"a", "aa", "aaa"}, "baaa"},
	} {
		for _, sizes := range [][]int{{1}, {2}, {3, 1}, {100}} {
			run(t, c.stops, c.text, sizes)
		}
	}
}

func TestEmptyStopString(t *testing.T) {
	if _, err := New([]string{"a", ""}); !errors.Is(err, ErrEmpty) || !strings.Contains(err.Error(), "index 1") {
		t.Errorf("%v", err)
	}
}

// TestStopStringsNeverLeak is named in the record of what went wrong before:
// stop strings were never matched.
func TestLesson_StopStringsNeverLeak(t *testing.T) {
	m, err := New([]string{"<|im_end|>"})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, part := range []string{"Hello", "<", "|im", "_start", "<|im_", "end|", ">", "tail"} {
		emit, _, _ := m.Push(part)
		out.WriteString(emit)
	}
	if out.String() != "Hello<|im_start" {
		t.Errorf("%q", out.String())
	}
}

func FuzzMatcher(f *testing.F) {
	f.Add("ab|abc|c", "xabababcab", []byte{1, 2})
	f.Add("aa|aaa|a", "bbaaa", []byte{1})
	f.Add("\n\n|</s>", "text\n</s", []byte{3, 1})
	f.Fuzz(func(t *testing.T, joined, text string, sizes []byte) {
		if len(joined) > 200 || len(text) > 400 || len(sizes) == 0 {
			return
		}
		var stops []string
		for _, s := range strings.Split(joined, "|") {
			if s != "" {
				stops = append(stops, s)
			}
		}
		parts := make([]int, len(sizes))
		for i, s := range sizes {
			parts[i] = int(s % 16)
		}
		run(t, stops, text, parts)
	})
}
