package verify_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kigo/engine/gguf"
	"kigo/engine/verify"
)

func open(t *testing.T, path ...string) (*gguf.File, *os.File) {
	t.Helper()
	return openPath(t, filepath.Join(append([]string{"..", ".."}, path...)...))
}

func openPath(t testing.TB, path string) (*gguf.File, *os.File) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatalf("%v: run make models", err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	g, err := gguf.Parse(f, info.Size(), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return g, f
}

var models = map[string]string{
	"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf",
	"qwen2":   "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
}

func options(t *testing.T, name string) verify.Options {
	var o verify.Options
	o.Model, o.ModelData = open(t, "models", models[name])
	return o
}

// Stage by stage against torch on dequantized weights; the golden files' own
// README says how they were made.
func TestLesson_EveryStageAgreesWithTorch(t *testing.T) {
	for name := range models {
		t.Run(name, func(t *testing.T) {
			o := options(t, name)
			o.Reference, o.ReferenceData = open(t, "engine", "testdata", "golden", "stages-"+name+".gguf")
			r, err := verify.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			worst := 0.0
			for _, s := range r.Stages {
				worst = max(worst, s.RMS/s.RefRMS)
				// Far inside what models.md asks for, 1e-3: a tenth of the
				// bound would already be a mistake somewhere.
				if !s.OK || !(s.RMS <= 1e-4*s.RefRMS) {
					t.Errorf("%s: relative error %.2e, worst at %d,%d: %v, want %v", s.Name, s.RMS/s.RefRMS, s.WorstRow, s.WorstCol, s.Got, s.Want)
				}
			}
			if !r.OK || len(r.Stages) < 50 || !strings.Contains(r.Against, "torch") {
				t.Errorf("%d stages against %q, OK %t", len(r.Stages), r.Against, r.OK)
			}
			t.Logf("%d stages, worst relative error %.1e", len(r.Stages), worst)
		})
	}
}

func TestServedPathIsNearTheReference(t *testing.T) {
	r, err := verify.Run(t.Context(), options(t, "smollm2"))
	if err != nil {
		t.Fatal(err)
	}
	if !r.OK || len(r.Stages) != 1+30*11+2 {
		t.Errorf("%d stages, OK %t", len(r.Stages), r.OK)
	}
	last := r.Stages[len(r.Stages)-1]
	if last.Name != "logits" || last.RMS == 0 || last.RMS > 1e-3*last.RefRMS {
		t.Errorf("logits: %+v", last)
	}
}

// damaged is a file with other bytes at one place.
type damaged struct {
	*os.File
	off, size int64
}

func (d damaged) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.File.ReadAt(p, off)
	for i := max(d.off, off); i < min(d.off+d.size, off+int64(n)); i++ {
		p[i-off] = 0
	}
	return n, err
}

// What verify is for: the first stage that a mistake touches is named.
func TestDamageIsFoundAtItsStage(t *testing.T) {
	for tensor, stage := range map[string]string{
		"blk.1.attn_k.weight":   "blk.1.k",
		"blk.0.ffn_down.weight": "blk.0.ffn_out",
		"output_norm.weight":    "output_norm",
	} {
		t.Run(tensor, func(t *testing.T) {
			o := options(t, "smollm2")
			o.Reference, o.ReferenceData = open(t, "engine", "testdata", "golden", "stages-smollm2.gguf")
			x, ok := o.Model.Tensor(tensor)
			if !ok {
				t.Fatal("no such tensor")
			}
			o.ModelData = damaged{o.ModelData.(*os.File), x.Offset, x.Size}
			r, err := verify.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range r.Stages {
				if !s.OK {
					if s.Name != stage {
						t.Errorf("first bad stage %s, want %s", s.Name, stage)
					}
					return
				}
			}
			t.Error("nothing was found")
		})
	}
}

func TestUnusableReferences(t *testing.T) {
	o := options(t, "smollm2")
	o.Reference, o.ReferenceData = open(t, "engine", "testdata", "golden", "stages-qwen2.gguf")
	if _, err := verify.Run(t.Context(), o); err == nil {
		t.Error("another model's stages were accepted")
	}
	o.Reference, o.ReferenceData = open(t, "models", models["smollm2"])
	if _, err := verify.Run(t.Context(), o); !errors.Is(err, verify.ErrReference) {
		t.Errorf("a model as its own reference: %v", err)
	}
}

var _ interface {
	io.ReaderAt
	Stat() (fs.FileInfo, error)
} = damaged{}
