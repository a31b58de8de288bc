package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kigo/engine/device/devices"
)

// Where there is no GPU, cuda is a device that is not there.
func TestPerplexityWithoutGPU(t *testing.T) {
	if _, _, err := devices.Open(devices.Options{Name: "cuda"}); err == nil {
		t.Skip("there is a GPU")
	}
	model, _, text := twoModels(t)
	kigo(t, "", nil, "perplexity", model, "--text", text, "--context", "32", "--device", "cuda").mustFail(t, exitLost, `device "cuda"`)
}

// twoModels writes a tiny model, its conversion, and a text.
func twoModels(t *testing.T) (model, other, text string) {
	t.Helper()
	dir := t.TempDir()
	model, other, text = filepath.Join(dir, "q4.gguf"), filepath.Join(dir, "f16.gguf"), filepath.Join(dir, "text.txt")
	kigo(t, "", nil, "synth", other, "--shape", "tiny", "--format", "f16").mustSucceed(t)
	kigo(t, "", nil, "convert", other, model, "--format", "q4_0").mustSucceed(t)
	if err := os.WriteFile(text, []byte(strings.Repeat("An old pond; a frog jumps in.\n", 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	return model, other, text
}

func TestPerplexity(t *testing.T) {
	model, other, text := twoModels(t)
	r := kigo(t, "", nil, "perplexity", model, "--text", text, "--context", "32", "--device", "cpu").mustSucceed(t)
	if !strings.Contains(r.stdout, "chunks of 32 tokens") || !strings.Contains(r.stdout, "perplexity  ") || !strings.Contains(r.stdout, " ± ") || strings.Contains(r.stdout, "KL") {
		t.Errorf("the report is\n%s", r.stdout)
	}
	r = kigo(t, "", nil, "perplexity", model, "--text", text, "--context", "32", "--chunks", "2", "--device", "cpu", "--against", other).mustSucceed(t)
	for _, words := range []string{": 2 chunks of 32 tokens, 30 of them counted", "KL divergence", "99 % at most", "same most likely token", "root mean square", other} {
		if !strings.Contains(r.stdout, words) {
			t.Errorf("%q is not in the report\n%s", words, r.stdout)
		}
	}
}

func TestPerplexityJSON(t *testing.T) {
	model, other, text := twoModels(t)
	type estimate struct{ Value, Error float64 }
	var report struct {
		Tokens, Context, Chunks, Counted int
		Perplexity                       estimate
		Running                          []float64
		Against                          *struct {
			Perplexity, Ratio, KL estimate
			SameTop               estimate `json:"same_top"`
			Quantiles             []struct {
				Share, KL float64
			} `json:"kl_quantiles"`
			Max float64 `json:"kl_max"`
		}
	}
	run := func(args ...string) {
		t.Helper()
		report.Against = nil
		r := kigo(t, "", nil, append([]string{"perplexity", model, "--text", text, "--context", "32", "--json"}, args...)...).mustSucceed(t)
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
			t.Fatal(err)
		}
	}
	run()
	alone := report
	if alone.Against != nil || alone.Context != 32 || alone.Chunks != alone.Tokens/32 || alone.Counted != 15*alone.Chunks ||
		len(alone.Running) != alone.Chunks || alone.Running[alone.Chunks-1] != alone.Perplexity.Value || alone.Perplexity.Error <= 0 {
		t.Errorf("%+v", alone)
	}
	run("--against", other)
	a := report.Against
	if report.Perplexity != alone.Perplexity || a == nil || a.KL.Value <= 0 || a.Max < a.KL.Value || len(a.Quantiles) != 4 ||
		a.SameTop.Value <= 0 || a.Perplexity == alone.Perplexity {
		t.Errorf("%+v, %+v", report, a)
	}
	run("--against", model, "--against-device", "cpu")
	if a := report.Against; a == nil || a.KL.Value > 1e-4 || a.KL.Value < 0 {
		t.Errorf("against itself: %+v", a)
	}
}

func TestPerplexityErrors(t *testing.T) {
	model, _, text := twoModels(t)
	dir := filepath.Dir(text)
	smolLM2 := modelPath(t, smolLM2)
	for name, c := range map[string]struct {
		code  int
		args  []string
		words []string
	}{
		"no model":            {exitUsage, []string{"--text", text}, []string{"model file"}},
		"no text":             {exitUsage, []string{model}, []string{"--text is missing"}},
		"no chunks":           {exitUsage, []string{model, "--text", text, "--chunks", "0"}, []string{"--chunks is 0"}},
		"device of nothing":   {exitUsage, []string{model, "--text", text, "--against-device", "cpu"}, []string{"--against"}},
		"absent model":        {exitFailure, []string{"absent.gguf", "--text", text}, []string{"absent.gguf"}},
		"absent text":         {exitFailure, []string{model, "--text", "absent.txt"}, []string{"absent.txt"}},
		"text is a folder":    {exitFailure, []string{model, "--text", dir}, []string{"not a regular file"}},
		"model is a text":     {exitFailure, []string{text, "--text", text}, []string{text}},
		"absent other":        {exitFailure, []string{model, "--text", text, "--against", "absent.gguf"}, []string{"absent.gguf"}},
		"another vocabulary":  {exitFailure, []string{model, "--text", text, "--against", smolLM2, "--context", "32"}, []string{"vocabular"}},
		"short text":          {exitFailure, []string{model, "--text", text, "--context", "512"}, []string{"do not fill a chunk of 512"}},
		"beyond the context":  {exitFailure, []string{model, "--text", text, "--context", "1024"}, []string{"1024", "512"}},
		"a context of one":    {exitFailure, []string{model, "--text", text, "--context", "1"}, []string{"chunks of 1"}},
		"more than there are": {exitFailure, []string{model, "--text", text, "--context", "32", "--chunks", "99"}, []string{"not 99"}},
		"no such device":      {exitFailure, []string{model, "--text", text, "--context", "32", "--device", "abacus"}, []string{"abacus"}},
	} {
		t.Run(name, func(t *testing.T) {
			kigo(t, "", nil, append([]string{"perplexity"}, c.args...)...).mustFail(t, c.code, c.words...)
		})
	}
}
