package perplexity_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"kigo/engine/convert"
	"kigo/engine/gguf"
	"kigo/engine/perplexity"
	"kigo/engine/quant"
	"kigo/engine/testenv"
)

const goldenFolder = "../testdata/golden"

// golden is what llama-perplexity says; testdata/golden/README.md has the details.
type golden struct {
	File       string
	Text       string
	TextSHA256 string `json:"text_sha256"`
	SHA256     map[string]string
	Runs       []goldenRun
}

type goldenRun struct {
	Context, Chunks, Counted int
	Perplexity               map[string]struct { // by "plain" and "exact"
		Running []float64
		Error   float64
	}
	Divergence map[string]map[string]goldenDivergence // by those, then by format
	Noise      goldenDivergence                       // of plain against exact, on one file
}

type goldenDivergence struct {
	goldenLine
	Ratio       [2]float64
	Correlation float64
	Max         float64      `json:"kl_max"`
	P99         float64      `json:"kl_99"`
	P95         float64      `json:"kl_95"`
	P90         float64      `json:"kl_90"`
	Median      float64      `json:"kl_median"`
	Running     []goldenLine // after each chunk
}

// goldenLine has figures with their errors.
type goldenLine struct {
	Perplexity [2]float64
	LogRatio   [2]float64 `json:"log_ratio"`
	KL         [2]float64
	RMS        [2]float64 `json:"probability_rms"`
	SameTop    [2]float64 `json:"same_top"`
}

// tokenError is what Kigo's log-probability of a token is off by from float32
// arithmetic (SmolLM2, root mean square). On the CPU, logits are off by 0.001; on a
// GPU, whose activations are float16, by 0.007 (package verify's tests), and what is
// subtracted from them by less.
func tokenError() float64 {
	if testenv.OnGPU() {
		return 0.01
	}
	return 0.0015
}

// What follows from it: rounding errors of single tokens are as good as independent,
// and three standard errors are allowed.

// lnBound bounds the error of the logarithm of a perplexity over n tokens; 1e-6 is
// what llama.cpp's four decimals leave out.
func lnBound(n int) float64 { return 3*tokenError()/math.Sqrt(float64(n)) + 1e-6 }

// klBound bounds the error of a mean over n tokens of their KL divergences. Rounding
// by e gives each file a divergence of noise = e^2/2 of its own, and moves that of a
// token by 2 sqrt(KL x noise), either way.
func klBound(kl, noise float64, n int) float64 {
	return 2*noise + 3*2*math.Sqrt(kl*noise/float64(n))
}

// llamaRounding bounds what a KL divergence by llama.cpp is off by itself: it rounds
// the base's log-probabilities to 16 bits, leaves out those below -16, and
// prints five decimals.
func llamaRounding(kl float64) float64 { return 3e-3*kl + 5e-6 }

// Perplexity and KL divergence are those of llama.cpp, on the same text and files.
// Without activations of 8 bits, that is with all weights as float32, its figures
// are Kigo's nearly to the last digit; with them, as people run it, they are as near
// as its own rounding lets them be.
//
// The full sizes, both conversions, are for GPUs and KIGO_TEST_LONG=1.
func TestEqualsLlamaPerplexity(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: arithmetic only")
	}
	raw, err := os.ReadFile(filepath.Join(goldenFolder, "perplexity.json"))
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(raw, &g); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(goldenFolder, g.Text))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(text); hex.EncodeToString(sum[:]) != g.TextSHA256 {
		t.Fatal("the golden answers are about another text")
	}
	full := testenv.Long() || testenv.OnGPU()
	model := testenv.Model(t, g.File)
	base := openGolden(t, model, g.SHA256["q4_1"])
	for _, format := range []string{"q4_0", "q8_0"} {
		if format == "q8_0" && !full {
			continue
		}
		other := openGolden(t, convertedFile(t, model, format), g.SHA256[format])
		for _, run := range g.Runs {
			if run.Context > 64 && !full {
				continue
			}
			chunks := run.Chunks
			if !full {
				chunks = 2
			}
			t.Run(fmt.Sprintf("%s/%d", format, run.Context), func(t *testing.T) {
				r, err := perplexity.Run(t.Context(), perplexity.Options{
					Model: other, Base: &base, Text: text, Context: run.Context, Chunks: chunks,
				})
				if err != nil {
					t.Fatal(err)
				}
				run.check(t, r, format)
			})
		}
	}
}

func (g *goldenRun) check(t *testing.T, r *perplexity.Report, format string) {
	t.Helper()
	d, last := r.Divergence, r.Chunks-1
	if want := g.Counted / g.Chunks * r.Chunks; r.Counted != want || len(r.Running) != r.Chunks {
		t.Fatalf("%d tokens counted, want %d; %d running estimates", r.Counted, want, len(r.Running))
	}
	ratio := func(name string, got, want, bound float64) {
		t.Helper()
		t.Logf("%-34s %.6g, llama.cpp %.6g: %.1e of it, at most %.1e", name, got, want, got/want-1, bound)
		if !(math.Abs(math.Log(got/want)) <= bound) {
			t.Errorf("%s is %.6g, llama.cpp's %.6g", name, got, want)
		}
	}
	near := func(name string, got, want, bound float64) {
		t.Helper()
		t.Logf("%-34s %.6f, llama.cpp %.6f: off by %.1e, at most %.1e", name, got, want, got-want, bound)
		if !(math.Abs(got-want) <= bound) {
			t.Errorf("%s is %.6f, llama.cpp's %.6f", name, got, want)
		}
	}

	exact, all := g.Divergence["exact"][format], r.Chunks == g.Chunks
	n, e := r.Counted, tokenError()
	kl := func(name string, got, want float64, n int) {
		t.Helper()
		near(name, got, want, klBound(want, e*e/2, n)+llamaRounding(want))
	}
	for i, p := range r.Running {
		ratio(fmt.Sprintf("perplexity after chunk %d", i+1), p, exact.Running[i].Perplexity[0], lnBound(n/r.Chunks*(i+1)))
	}
	line := exact.Running[last]
	ratio("error of the perplexity", r.Perplexity.Error, line.Perplexity[1], 3*lnBound(n))
	ratio("perplexity of the base", d.BasePerplexity.Value, g.Perplexity["exact"].Running[last], lnBound(n))
	near("ln of the ratio", d.LogRatio.Value, line.LogRatio[0], 2*lnBound(n))
	ratio("its error", d.LogRatio.Error, line.LogRatio[1], 10*e)
	kl("KL divergence", d.KL.Value, line.KL[0], n)
	kl("its error", d.KL.Error, line.KL[1], n)
	near("RMS of probability differences", d.ProbabilityRMS.Value, line.RMS[0], e/4)
	near("same top token", d.SameTop.Value, line.SameTop[0], e+2/float64(n))
	if all {
		ratio("error of the base's perplexity", d.BasePerplexity.Error, g.Perplexity["exact"].Error, 3*lnBound(n))
		near("correlation", d.Correlation, exact.Correlation, e)
		kl("KL divergence, median", d.Median, exact.Median, n/4)
		for i, want := range []float64{exact.P90, exact.P95, exact.P99} {
			kl(fmt.Sprintf("KL divergence, %g %%", 100*d.Quantiles[i].Share), d.Quantiles[i].KL, want, 1)
		}
		kl("KL divergence, largest", d.Max, exact.Max, 1)
	}

	// As people run it, llama.cpp quantizes activations to 8 bits. What that does to
	// it is measured by its own comparison with its float32 arithmetic.
	noise := g.Noise.Running[last]
	ratio("against 8-bit activations: base", d.BasePerplexity.Value, g.Perplexity["plain"].Running[last], 3*noise.LogRatio[1])
	plain := g.Divergence["plain"][format].Running[last]
	ratio("against 8-bit activations: model", r.Perplexity.Value, plain.Perplexity[0], 3*noise.LogRatio[1])
	near("against 8-bit activations: KL", d.KL.Value, plain.KL[0], klBound(plain.KL[0], noise.KL[0], n))
}

// openGolden opens the very file that the golden answers are about.
func openGolden(t *testing.T, path, sum string) perplexity.Model {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		t.Fatalf("%s: SHA-256 %s; the golden answers are about %s", path, got, sum)
	}
	header, err := gguf.Parse(f, info.Size(), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return perplexity.Model{File: header, Data: f, Device: testenv.Device(t)}
}

// convertedFile is what kigo convert makes of a model.
func convertedFile(t *testing.T, path, format string) string {
	t.Helper()
	in, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		t.Fatal(err)
	}
	f, err := quant.ByName(format)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), format+".gguf"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := convert.Convert(t.Context(), in, info.Size(), out, f, nil); err != nil {
		t.Fatal(err)
	}
	return out.Name()
}
