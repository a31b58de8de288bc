package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kigo/engine/gguf"
	"kigo/engine/quant"
)

// writeGGUF writes a file with one F32 matrix of two rows and the columns.
func writeGGUF(t *testing.T, path string, columns int, value float32) {
	t.Helper()
	var file bytes.Buffer
	values := make([]float32, 2*columns)
	for i := range values {
		values[i] = value
	}
	format, err := quant.ByName("f32")
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 4*len(values))
	format.Quantize(raw, values)
	w, err := gguf.NewWriter(&file, []gguf.KV{{Key: "general.architecture", Value: gguf.ValueOf("llama")}},
		[]gguf.Tensor{{Name: "m", Dims: []uint64{uint64(columns), 2}, Type: quant.F32}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Begin("m"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, file.Bytes(), 0o640); err != nil {
		t.Fatal(err)
	}
}

// entries lists a folder: a failed conversion must leave nothing there.
func entries(t *testing.T, folder string) string {
	t.Helper()
	list, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(list))
	for i, e := range list {
		names[i] = e.Name()
	}
	return strings.Join(names, " ")
}

func TestConvert(t *testing.T) {
	folder := t.TempDir()
	in, out := filepath.Join(folder, "in.gguf"), filepath.Join(folder, "out.gguf")
	writeGGUF(t, in, 64, 1.5)
	for _, format := range []string{"f16", "f32", "Q8_0", "q4_0"} {
		r := kigo(t, "", nil, "convert", in, out, "--format", format, "--force").mustSucceed(t)
		if r.stdout != "" || strings.Contains(r.stderr, "\r") {
			t.Errorf("a progress bar without a terminal, or output: %q %q", r.stdout, r.stderr)
		}
		shown := kigo(t, "", nil, "inspect", out).mustSucceed(t).stdout
		if !strings.Contains(shown, "  "+strings.ToUpper(format)+"  ") {
			t.Errorf("%s: the result is another format:\n%s", format, shown)
		}
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o640 {
		t.Errorf("the output has mode %v, want the input's 0640", info.Mode())
	}
	if got := entries(t, folder); got != "in.gguf out.gguf" {
		t.Errorf("the folder holds %s", got)
	}
}

func TestConvertFallsBackToF16(t *testing.T) {
	folder := t.TempDir()
	in, out := filepath.Join(folder, "in.gguf"), filepath.Join(folder, "out.gguf")
	writeGGUF(t, in, 33, 1)
	r := kigo(t, "", nil, "convert", in, out, "--format", "q8_0").mustSucceed(t)
	if !strings.Contains(r.stderr, "1 of them are F16") {
		t.Errorf("standard error does not say so: %s", r.stderr)
	}
}

func TestConvertLeavesNothingBehind(t *testing.T) {
	folder := t.TempDir()
	in, out := filepath.Join(folder, "in.gguf"), filepath.Join(folder, "out.gguf")
	writeGGUF(t, in, 64, 1e30) // too large for F16
	convert := func(args ...string) result {
		return kigo(t, "", nil, append([]string{"convert", "--format", "f16"}, args...)...)
	}
	convert(in, out).mustFail(t, exitFailure, in, `"m"`)
	convert("absent.gguf", out).mustFail(t, exitFailure, "absent.gguf")
	convert("convert_test.go", out).mustFail(t, exitFailure, "convert_test.go", "GGUF")
	convert(in, filepath.Join(folder, "absent", "out.gguf")).mustFail(t, exitFailure, "absent")
	convert(in, folder, "--force").mustFail(t, exitFailure, "not a regular file")
	convert(in, os.DevNull, "--force").mustFail(t, exitFailure, "not a regular file")

	writeGGUF(t, in, 64, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := &app{stdin: strings.NewReader(""), stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
	if code := a.run(ctx, []string{"convert", in, out, "--format", "f16"}); code != exitInterrupted {
		t.Errorf("interrupted: exit code %d, want %d", code, exitInterrupted)
	}
	if got := entries(t, folder); got != "in.gguf" {
		t.Errorf("the folder holds %s", got)
	}

	before := readFile(t, in)
	convert(in, in).mustFail(t, exitFailure, "--force")
	if readFile(t, in) != before {
		t.Error("a refused conversion changed the file")
	}
}
