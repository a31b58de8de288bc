package server_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	kigov1 "kigo/proto/kigo/v1"

	"kigo/engine/gguf"
	"kigo/engine/testenv"
)

// haikuGolden is what engines that are not ours answered, for every minute:
// torch in float32 greedily (haiku-torch.json), llama.cpp sampling (haiku.json).
// engine/testdata/golden/README.md has the details.
type haikuGolden struct {
	File      string `json:"file"`
	SHA256    string `json:"sha256"`
	Message   string `json:"message"`
	MaxTokens int    `json:"max_tokens"`
	Sampling  struct {
		Temperature float32 `json:"temperature"`
		TopK        int32   `json:"top_k"`
		TopP        float32 `json:"top_p"`
	} `json:"sampling"`
	Seeds int         `json:"seeds"`
	All   int         `json:"least_over_all"` // the same as Words' Least for all minutes together
	Words []haikuWord `json:"words"`
}

// haikuWord is the answer for one minute.
type haikuWord struct {
	Minute  int       `json:"minute"`
	Word    string    `json:"word"`
	Prompt  []int32   `json:"prompt"`
	IDs     []int32   `json:"ids"`     // torch's, greedily
	End     *int32    `json:"end"`     // the end token that torch stopped at, if at one
	Margins []float64 `json:"margins"` // between torch's two best logits at every choice, the end's included
	Least   int       `json:"least"`   // of Seeds haikus sampled as llama.cpp does, at least so many hold the word
}

// Where torch's two best logits are closer than the noise, rounding may decide. On
// the CPU the served path is within 0.005 of torch (TestTeacherForced in
// engine/verify measures it), each logit either way, and twice that is a safe
// distance. On a GPU, whose activations are float16, logits are off by 0.007 (root
// mean square), the difference of two by 0.01, and five times that is safe. A
// choice that differs there is a near-tie; at most haikuTies of an answer's choices
// may be one, or one of a short answer's.
const (
	haikuNoiseCPU = 0.02
	haikuNoiseGPU = 0.05
	haikuTies     = 0.05
)

func haikuNoise() float64 {
	if testenv.OnGPU() {
		return haikuNoiseGPU
	}
	return haikuNoiseCPU
}

func readHaikuGolden(t *testing.T) *haikuGolden {
	t.Helper()
	read := func(name string) *haikuGolden {
		raw, err := os.ReadFile(filepath.Join("..", "engine", "testdata", "golden", name))
		if err != nil {
			t.Fatal(err)
		}
		g := &haikuGolden{}
		if err := json.Unmarshal(raw, g); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(g.Words) != 60 || g.MaxTokens == 0 {
			t.Fatalf("%s has %d words of %d tokens", name, len(g.Words), g.MaxTokens)
		}
		return g
	}
	g, torch := read("haiku.json"), read("haiku-torch.json")
	if g.SHA256 != torch.SHA256 || g.Message != torch.Message || g.MaxTokens != torch.MaxTokens || g.Seeds == 0 || g.All == 0 {
		t.Fatal("haiku.json and haiku-torch.json are about different things")
	}
	for i := range g.Words {
		w, greedy := &g.Words[i], torch.Words[i]
		if w.Minute != i || w.Word != greedy.Word || !slices.Equal(w.Prompt, greedy.Prompt) {
			t.Fatalf("minute %d: %q and %q, or different prompts", i, w.Word, greedy.Word)
		}
		w.IDs, w.End, w.Margins = greedy.IDs, greedy.End, greedy.Margins
	}
	return g
}

// The acceptance test: the model is asked for a haiku with the minute that it
// is now, and what it says is what an independent engine found that it says.
// No fixture passes it, and neither does a server that echoes the prompt: see
// the twin below.
func TestHaiku(t *testing.T) {
	t.Parallel()
	if raceDetector {
		t.Skip("the real model takes hours under the race detector")
	}
	g := readHaikuGolden(t)
	path := testenv.Model(t, g.File)
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != g.SHA256 {
		t.Fatalf("%s is another file (%s) than the golden answers are for (%s): run make models", g.File, got, g.SHA256)
	}

	e := newEngine(t)
	loadFile(t, e, path)
	f := start(t, nil, e)
	w := g.now(t)
	t.Logf("minute %d: %q, at least %d of %d haikus", w.Minute, w.Word, w.Least, g.Seeds)
	for _, err := range []error{f.greedyHaiku(t, g, w), f.sampledHaikus(t, g, w)} {
		if err != nil {
			t.Errorf("minute %d (%s): %v", w.Minute, w.Word, err)
		}
	}
	if !long() {
		return
	}
	for i := range g.Words {
		if err := f.greedyHaiku(t, g, &g.Words[i]); err != nil {
			t.Errorf("minute %d (%s): %v", i, g.Words[i].Word, err)
		}
		if i%10 != 0 {
			continue
		}
		if err := f.sampledHaikus(t, g, &g.Words[i]); err != nil {
			t.Errorf("minute %d (%s): %v", i, g.Words[i].Word, err)
		}
	}
	if testenv.OnGPU() { // hours on a CPU
		f.allHaikus(t, g)
	}
}

// allHaikus samples every seed of every minute and counts the haikus that hold
// the word.
func (f *fixture) allHaikus(t *testing.T, g *haikuGolden) {
	t.Helper()
	hits := 0
	for i := range g.Words {
		for seed := 1; seed <= g.Seeds; seed++ {
			hit, err := f.sampledHaiku(t, g, &g.Words[i], uint64(seed))
			if err != nil {
				t.Fatalf("minute %d, seed %d: %v", i, seed, err)
			}
			if hit {
				hits++
			}
		}
	}
	all := len(g.Words) * g.Seeds
	t.Logf("%d of %d sampled haikus hold their word, at least %d", hits, all, g.All)
	if hits < g.All {
		t.Errorf("%d of %d sampled haikus hold their word, fewer than %d", hits, all, g.All)
	}
}

// The twin proves that the test can fail: with one tensor of 272 zeroed, the
// server, the prompt and everything else being the same, both halves do.
func TestHaikuFailsWithAZeroedTensor(t *testing.T) {
	t.Parallel()
	if raceDetector {
		t.Skip("the real model takes hours under the race detector")
	}
	g := readHaikuGolden(t)
	path := zeroTensor(t, testenv.Model(t, g.File), zeroedTensor)
	e := newEngine(t)
	loadFile(t, e, path)
	f := start(t, nil, e)
	// The word that most haikus hold, because then few seeds decide; no word is
	// so rare that the sampled half could not fail.
	w := &g.Words[0]
	for i := range g.Words {
		if g.Words[i].Least == 0 {
			t.Errorf("minute %d (%s): the sampled half cannot fail", i, g.Words[i].Word)
		}
		if g.Words[i].Least > w.Least {
			w = &g.Words[i]
		}
	}
	if long() {
		w = g.now(t)
	}
	greedy := f.greedyHaiku(t, g, w)
	sampled := f.sampledHaikus(t, g, w)
	t.Logf("greedy: %v", greedy)
	t.Logf("sampled: %v", sampled)
	if greedy == nil {
		t.Errorf("with %s zeroed, the greedy haiku is still the golden one", zeroedTensor)
	}
	if sampled == nil {
		t.Errorf("with %s zeroed, the sampled haikus still hold the word", zeroedTensor)
	}
}

// zeroedTensor is the second half of the first layer: everything that the model
// makes of single tokens goes through it.
const zeroedTensor = "blk.0.ffn_down.weight"

// long says whether the full sizes are asked for (make test-long), or take so
// little time that they need not be.
func long() bool { return testenv.Long() || testenv.OnGPU() }

// now is the word of this minute. KIGO_HAIKU_MINUTE repeats another minute's
// run.
func (g *haikuGolden) now(t *testing.T) *haikuWord {
	t.Helper()
	minute := time.Now().Minute()
	if s := os.Getenv("KIGO_HAIKU_MINUTE"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n >= len(g.Words) {
			t.Fatalf("KIGO_HAIKU_MINUTE=%q: want 0 to 59", s)
		}
		minute = n
	}
	return &g.Words[minute]
}

// request asks for a haiku as the golden engine was asked: as a chat, which the
// server renders and tokenizes.
func (g *haikuGolden) request(w *haikuWord) *kigov1.ExecuteRequest {
	return &kigov1.ExecuteRequest{
		Prompt: &kigov1.ExecuteRequest_Chat{Chat: &kigov1.Chat{Messages: []*kigov1.ChatMessage{
			{Role: "user", Content: strings.ReplaceAll(g.Message, "{word}", w.Word)},
		}}},
		MaxTokens: ptr(int32(g.MaxTokens)),
		Sampling:  &kigov1.Sampling{Temperature: ptr[float32](0)},
	}
}

// greedyHaiku compares the greedy answer with the golden one, token by token.
// After a near-tie it goes on from the golden tokens, so that one legitimate
// difference does not spoil what follows.
func (f *fixture) greedyHaiku(t *testing.T, g *haikuGolden, w *haikuWord) error {
	t.Helper()
	// The choices that were made: the ids, and the end where there is one.
	choices := slices.Clone(w.IDs)
	if w.End != nil {
		choices = append(choices, *w.End)
	}
	if len(choices) != len(w.Margins) {
		t.Fatalf("minute %d: %d choices with %d margins", w.Minute, len(choices), len(w.Margins))
	}
	ties := 0
	r := g.request(w)
	for at := 0; at < len(choices); {
		a, err := f.execute(t, r)
		if err != nil {
			return err
		}
		if at == 0 && int(a.started.GetPromptTokens()) != len(w.Prompt) {
			return fmt.Errorf("a prompt of %d tokens, want %d", a.started.GetPromptTokens(), len(w.Prompt))
		}
		got := a.ids
		if a.end.StopId != nil {
			got = append(got, a.end.GetStopId())
		}
		rest := choices[at:]
		same := 0
		for same < len(got) && same < len(rest) && got[same] == rest[same] {
			same++
		}
		if at += same; at == len(choices) {
			if len(got) > len(rest) {
				return fmt.Errorf("%d tokens, want %d", len(w.IDs)+len(got)-len(rest), len(w.IDs))
			}
			break
		}
		if same == len(got) {
			return fmt.Errorf("ended after %d tokens, want %d", at, len(w.IDs))
		}
		if w.Margins[at] >= haikuNoise() {
			return fmt.Errorf("token %d is %d, want %d, which torch chose by a margin of %.2f: %q",
				at, got[same], choices[at], w.Margins[at], a.text)
		}
		ties++
		t.Logf("minute %d: near-tie at token %d, margin %.3f", w.Minute, at, w.Margins[at])
		if at++; at == len(choices) {
			break
		}
		r = g.request(w)
		r.Prompt = &kigov1.ExecuteRequest_Tokens{Tokens: &kigov1.TokenIds{Ids: append(slices.Clone(w.Prompt), w.IDs[:at]...)}}
		r.MaxTokens = ptr(int32(g.MaxTokens - at))
	}
	if most := max(1, haikuTies*float64(len(choices))); float64(ties) > most {
		return fmt.Errorf("%d of %d choices were near-ties, at most %.0f %%", ties, len(choices), 100*haikuTies)
	}
	return nil
}

// sampledHaikus counts the seeds whose haiku holds the word. It stops where the
// count is decided.
func (f *fixture) sampledHaikus(t *testing.T, g *haikuGolden, w *haikuWord) error {
	t.Helper()
	hits := 0
	for seed := 1; seed <= g.Seeds; seed++ {
		hit, err := f.sampledHaiku(t, g, w, uint64(seed))
		if err != nil {
			return err
		}
		if hit {
			hits++
		}
		if hits >= w.Least {
			return nil
		}
		if left := g.Seeds - seed; hits+left < w.Least {
			return fmt.Errorf("%d of the first %d sampled haikus hold the word, so fewer than %d of %d will", hits, seed, w.Least, g.Seeds)
		}
	}
	return fmt.Errorf("%d of %d sampled haikus hold the word, want %d", hits, g.Seeds, w.Least)
}

// sampledHaiku says whether one haiku holds the word, and cancels it as soon as
// it does.
func (f *fixture) sampledHaiku(t *testing.T, g *haikuGolden, w *haikuWord, seed uint64) (bool, error) {
	t.Helper()
	r := g.request(w)
	r.Sampling = &kigov1.Sampling{
		Temperature: &g.Sampling.Temperature, TopK: &g.Sampling.TopK, TopP: &g.Sampling.TopP,
		MinP: ptr[float32](0), Seed: &seed,
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := f.inference.Execute(ctx, r)
	if err != nil {
		return false, err
	}
	finder := wordFinder(w.Word)
	text := ""
	for {
		res, err := stream.Recv()
		if err != nil {
			return false, err
		}
		if res.GetEnd() != nil {
			return finder.MatchString(text), nil
		}
		text += res.GetTokens().GetText()
		// Decided only when what follows can no longer become part of the word.
		if at := finder.FindStringIndex(text); at != nil && at[1] < len(text) {
			return true, nil
		}
	}
}

// wordFinder finds a word between word boundaries, in any case; its hyphen may
// be a space. "weight" does not contain "eight".
func wordFinder(word string) *regexp.Regexp {
	return regexp.MustCompile(`(?i)\b` + strings.ReplaceAll(word, "-", "[- ]") + `\b`)
}

func TestWordFinder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		word, text string
		want       bool
	}{
		{"eight", "The weight of rain", false},
		{"eight", "Eight drops of rain", true},
		{"eight", "eighteen drops", false},
		{"twenty-one", "twenty one drops", true},
		{"twenty-one", "Twenty-One.", true},
		{"twenty", "twenty-one drops", true}, // as in the golden rates
		{"one", "none, someone, alone", false},
	} {
		if got := wordFinder(c.word).MatchString(c.text); got != c.want {
			t.Errorf("%q in %q: %v", c.word, c.text, got)
		}
	}
}

// zeroTensor copies a model with the bytes of one tensor zeroed.
func zeroTensor(t *testing.T, path, name string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := gguf.Parse(bytes.NewReader(data), int64(len(data)), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	tensor, ok := file.Tensor(name)
	if !ok {
		t.Fatalf("%s has no tensor %s", path, name)
	}
	clear(data[tensor.Offset : tensor.Offset+tensor.Size])
	out := filepath.Join(t.TempDir(), "zeroed.gguf")
	if err := os.WriteFile(out, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}
