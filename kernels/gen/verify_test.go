package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const kernelsDir = ".."

// The committed machine code is that of the committed sources. What this test
// says is mended by `make kernels`.
func TestCommitted(t *testing.T) {
	tree, err := readTree(kernelsDir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := readManifest(filepath.Join(kernelsDir, "SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.verify(m); err != nil {
		t.Error(err)
	}
}

// Each way in which the committed files can drift apart is seen.
func TestVerifySees(t *testing.T) {
	change := func(name, old, new string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			file := filepath.Join(dir, name)
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Replace(string(data), old, new, 1)
			if text == string(data) {
				t.Fatalf("%s does not hold %q", name, old)
			}
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name   string
		change func(t *testing.T, dir string)
		want   string
	}{
		{"nothing", func(*testing.T, string) {}, ""},
		{"a source", change("probe.cu", "probe", "pr0be"), "probe was compiled for sm_90a from other sources"},
		{"a header", change("kigo.cuh", "#pragma once", "#pragma  once"), "from other sources"},
		{"the compiler", change("compiler.txt", "==12.9.86", "==12.9.85"), "from other sources"},
		{"a struct", change("params.h", "uint32_t count", "uint64_t count"), "from other sources"},
		{"a comment of a struct", change("params.h", "// blockIdx", "// block"), "params_gen.go is not what"},
		{"the table", change("params.h", "kernel: probe ProbeParams", "kernel: probe ProbeRecord"), "params_gen.go is not what"},
		{"a kernel that is not there", change("params.h", "// kernel: probe", "// kernel: nonesuch ProbeParams\n// kernel: probe"), "nonesuch matches no kernel"},
		{"Go", change("params_gen.go", "Size: ", "Size: 1"), "params_gen.go is not what"},
		{"the checks", change("params_check.h", "== 8", "== 9"), "params_check.h is not what"},
		{"Go's test", change("params_gen_test.go", "), 8}", "), 9}"), "params_gen_test.go is not what"},
		{"registers", change("SUMS", "params=72", "params=73"), "other kernels than SUMS says"},
		{"a sum", change("SUMS", "image=", "image=0"), "SUMS says 0"},
		{"a word of SUMS", change("SUMS", "# options", "# 0ptions"), "not as make kernels writes it"},
		{"a missing image", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, "bin", "probe.sm_90a.cubin.zst")); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
		{"another image", func(t *testing.T, dir string) {
			data, err := os.ReadFile(filepath.Join(dir, "bin", "probe.sm_80.cubin.zst"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "bin", "probe.sm_90a.cubin.zst"), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "bin/probe.sm_90a.cubin.zst holds"},
		{"a broken image", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "bin", "probe.sm_90a.cubin.zst"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "bin/probe.sm_90a.cubin.zst: "},
		{"a stranger", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "bin", "x.zst"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "bin/x.zst belongs to no family"},
		{"a new family", func(t *testing.T, dir string) {
			if err := os.WriteFile(filepath.Join(dir, "more.cu"), []byte("#include \"kigo.cuh\"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "more was not compiled for sm_80"},
		{"a family that is gone", func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, "probe.cu"), filepath.Join(dir, "other.cu")); err != nil {
				t.Fatal(err)
			}
		}, "SUMS lists probe.sm_80.cubin, which no family makes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := copyKernels(t)
			test.change(t, dir)
			tree, err := readTree(dir)
			if err != nil {
				t.Fatal(err)
			}
			m, err := readManifest(filepath.Join(dir, "SUMS"))
			if err != nil {
				t.Fatal(err)
			}
			err = tree.verify(m)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error that says %q", err, test.want)
			}
		})
	}
}

// copyKernels copies the sources and what is made of the family probe, and
// forgets all other families, so that these tests stay as they are when families
// are added.
func copyKernels(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"compiler.txt", "kigo.cuh", "probe.cu"} {
		copyFile(t, filepath.Join(kernelsDir, name), filepath.Join(dir, name))
	}
	whole, err := readTree(kernelsDir)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	data, err := os.ReadFile(filepath.Join(kernelsDir, "params.h"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if !strings.HasPrefix(line, "// kernel: ") || strings.HasPrefix(line, "// kernel: probe ") {
			lines = append(lines, line)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "params.h"), []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := readManifest(filepath.Join(kernelsDir, "SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	own := &manifest{}
	for _, e := range m.images {
		if strings.HasPrefix(e.file, "probe.") {
			own.set(e)
			copyFile(t, filepath.Join(kernelsDir, "bin", e.file+".zst"), filepath.Join(dir, "bin", e.file+".zst"))
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "SUMS"), []byte(own.text(whole.compiler)), 0o644); err != nil {
		t.Fatal(err)
	}
	tree, err := readTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := tree.generate(own, true); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		t.Fatal(err)
	}
}
