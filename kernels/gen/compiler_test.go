package main

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The tests of this file run the real compiler, and are skipped where nobody has
// installed it; `make check-kernels` does, and runs them.
func installed(t *testing.T) (cuda string) {
	t.Helper()
	cuda = filepath.Join("..", "..", ".build", "cuda")
	if _, err := os.Stat(filepath.Join(cuda, "stamp")); err != nil {
		t.Skip("the compiler is not installed: make check-kernels does it")
	}
	return cuda
}

// compileFolder compiles the families of a folder with the real kigo.cuh.
func compileFolder(t *testing.T, cuda string, files map[string]string, targets ...string) (map[string]result, error) {
	t.Helper()
	head, err := os.ReadFile(filepath.Join(kernelsDir, "kigo.cuh"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"kigo.cuh": string(head)}
	for name, text := range files {
		all[name] = text
	}
	tree, err := readTree(folder(t, all))
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan struct {
		file string
		result
	}, 100)
	err = tree.compile(context.Background(), cuda, tree.stale(&manifest{}, selection{targets: targets}), io.Discard, func(j job, r result) error {
		results <- struct {
			file string
			result
		}{j.file(), r}
		return nil
	})
	close(results)
	out := map[string]result{}
	for r := range results {
		out[r.file] = r.result
	}
	return out, err
}

const (
	twoParams = "// kernel: a_* A\n// kernel: b B\nstruct A {\n    float *x;\n    uint32_t n;\n};\nstruct B {\n    float *x;\n    int32_t n;\n};\n"
	twoHead   = "#include \"kigo.cuh\"\n"
)

// Kernels that a macro makes of one template are found by name, with their
// numbers, in machine code and in PTX, and twice the same bytes are made.
func TestCompileTemplates(t *testing.T) {
	cuda := installed(t)
	files := map[string]string{
		"params.h": twoParams,
		"a.cu": twoHead + `
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <mma.h>
namespace { __device__ int hidden; }
template <int N> static __device__ void body(const A &p) {
    __shared__ float s[N];
    s[threadIdx.x % N] = __half2float(__float2half(p.x[threadIdx.x]));
    __syncthreads();
    p.x[threadIdx.x] = s[(threadIdx.x + 1) % N] + hidden++;
}
#define FORMATS(X) X(q4_0, 64) X(q8_0, 128)
#define INSTANCE(name, n) KIGO_KERNEL(a_##name, A, __launch_bounds__(128)) { body<n>(p); }
FORMATS(INSTANCE)
extern "C" __global__ void b(const __grid_constant__ B p) {
    // A local array with an index that only the data knows needs a stack.
    float v[32];
    for (int i = 0; i < 32; i++) v[i] = p.x[i];
    for (int i = 0; i < 32; i++) p.x[i] = v[(int)p.x[i + p.n] & 31];
}
`,
	}
	first, err := compileFolder(t, cuda, files, "sm_80", "sm_90a", "compute_80")
	if err != nil {
		t.Fatal(err)
	}
	second, err := compileFolder(t, cuda, files, "sm_80", "sm_90a", "compute_80")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"a.sm_80.cubin", "a.sm_90a.cubin", "a.compute_80.ptx"} {
		r := first[file]
		var names []string
		for _, k := range r.kernels {
			names = append(names, k.name)
			if k.params != 16 {
				t.Errorf("%s: %s takes %d bytes, want 16", file, k.name, k.params)
			}
		}
		if !slices.Equal(names, []string{"a_q4_0", "a_q8_0", "b"}) {
			t.Errorf("%s holds %q", file, names)
		}
		if sum(r.image) != sum(second[file].image) {
			t.Errorf("%s: compiled twice, two images", file)
		}
		if strings.HasSuffix(file, ".ptx") {
			continue
		}
		if r.kernels[0].shared < 256 || r.kernels[1].shared < 512 || r.kernels[2].stack < 128 || r.kernels[0].stack != 0 {
			t.Errorf("%s: shared memory of at least 256 and 512 bytes and a stack of 128 wanted: %+v", file, r.kernels)
		}
		for _, k := range r.kernels {
			if k.registers < 4 || k.registers > 255 || k.code == 0 {
				t.Errorf("%s: %+v", file, k)
			}
		}
	}
}

// Too few registers for what is alive: the spilled bytes are reported.
func TestCompileSpills(t *testing.T) {
	cuda := installed(t)
	results, err := compileFolder(t, cuda, map[string]string{
		"params.h": twoParams,
		"a.cu": twoHead + `
KIGO_KERNEL(a_spill, A, __launch_bounds__(1024, 2)) {
    float v[64];
#pragma unroll
    for (int i = 0; i < 64; i++) v[i] = p.x[i * p.n + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 64; i++) p.x[i * 7 + threadIdx.x] = v[63 - i] * v[i];
}
KIGO_KERNEL(b, B) {}
`}, "sm_90a")
	if err != nil {
		t.Fatal(err)
	}
	if k := results["a.sm_90a.cubin"].kernels[0]; k.spills == 0 || k.registers > 32 {
		t.Errorf("%+v: spills wanted, and 32 registers at most", k)
	}
}

// What Go could misunderstand does not compile.
func TestCompileRefuses(t *testing.T) {
	cuda := installed(t)
	for _, test := range []struct{ name, text, want string }{
		{"another struct of the same size", `KIGO_KERNEL(a_x, B) { *p.x = p.n; }`, "a_x takes another struct than A"},
		{"a pointer to the struct", `extern "C" __global__ void a_x(const A *p) { *p->x = p->n; }`, "takes 8 bytes"},
		{"two parameters", `extern "C" __global__ void a_x(const __grid_constant__ A p, int n) { *p.x = n; }`, "2 parameters"},
		{"no parameters", `extern "C" __global__ void a_x() {}`, "0 parameters"},
		{"a kernel without a line in params.h", `KIGO_KERNEL(c, A) { *p.x = p.n; }`, `"// kernel: c Struct"`},
		{"a mangled name", `__global__ void a_x(const __grid_constant__ A p) { *p.x = p.n; }`, "a_x"},
		{"C++ that is wrong", `KIGO_KERNEL(a_x, A) { *p.x = p.nonesuch; }`, "nonesuch"},
		{"a missing header", "#include <nonesuch.h>", "nonesuch.h"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := compileFolder(t, cuda, map[string]string{"params.h": twoParams, "a.cu": twoHead + test.text}, "sm_90a")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error that says %q", err, test.want)
			}
		})
	}
}

// The compiler checks the sizes and offsets that Go counts on.
func TestCompileChecksLayout(t *testing.T) {
	cuda := installed(t)
	c, err := openCompiler(cuda)
	if err != nil {
		t.Fatal(err)
	}
	for i, change := range []func(a *decl){
		func(*decl) {},
		func(a *decl) { a.fields[1].offset++ },
		func(a *decl) { a.fields[1].size++ },
		func(a *decl) { a.size++ },
		func(a *decl) { a.align++ },
	} {
		p, err := parseParams(twoParams)
		if err != nil {
			t.Fatal(err)
		}
		change(p.byName["A"])
		text := "typedef unsigned uint32_t; typedef int int32_t;\n" + declarations(p.decls) + checks(p.decls)
		_, _, err = c.run([]source{{"a.cu", text}}, targets[0], true)
		if i == 0 {
			if err != nil {
				t.Error(err)
			}
		} else if err == nil || strings.Count(err.Error(), "static assertion failed") != 1 {
			t.Errorf("the wrong layout %d was not seen: %v", i, err)
		}
	}
}

// A build from nothing gives the committed files again; a second one has nothing
// to do; machine code that no source gives is found out even when its sums are
// consistent.
func TestBuildAndCheck(t *testing.T) {
	cuda := installed(t)
	dir := copyKernels(t)
	sums := filepath.Join(dir, "SUMS")
	want, err := os.ReadFile(sums)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{sums, filepath.Join(dir, "bin"), filepath.Join(dir, goFile)} {
		if err := os.RemoveAll(name); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := readTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	build := func(sel selection) string {
		t.Helper()
		var out strings.Builder
		if err := tree.build(ctx, cuda, sel, &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	if out := build(selection{targets: []string{"sm_90a"}}); strings.Count(out, "\n") != 1 || !strings.Contains(out, "probe.sm_90a.cubin") {
		t.Errorf("one target was asked for: %s", out)
	}
	if out := build(selection{}); strings.Count(out, "\n") != len(targets)-1 {
		t.Errorf("the other targets were asked for: %s", out)
	}
	if out := build(selection{}); out != "" {
		t.Errorf("nothing changed, and yet: %s", out)
	}
	if got, err := os.ReadFile(sums); err != nil || string(got) != string(want) {
		t.Errorf("SUMS of a build from nothing is not the committed one: %v\n%s", err, got)
	}

	m, err := readManifest(sums)
	if err != nil {
		t.Fatal(err)
	}
	check := func(base *manifest) (string, error) {
		var out strings.Builder
		err := tree.check(ctx, cuda, base, selection{targets: []string{"sm_90a"}}, &out)
		return out.String(), err
	}
	for name, base := range map[string]*manifest{"nothing changed": m, "no base": {}} {
		if out, err := check(base); err != nil || !strings.Contains(out, "probe.sm_90a.cubin") {
			t.Errorf("%s: %s%v", name, out, err)
		}
	}
	e := *m.find("probe.sm_90a.cubin")
	image, err := tree.readImageFile(e.file)
	if err != nil {
		t.Fatal(err)
	}
	image[len(image)-1] ^= 1
	e.image = sum(image)
	before := &manifest{images: slices.Clone(m.images)}
	m.set(e)
	if err := tree.writeImage(e.file, image); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(sums, []byte(m.text(tree.compiler))); err != nil {
		t.Fatal(err)
	}
	if err := tree.verify(m); err != nil {
		t.Fatalf("the sums agree, and yet: %v", err)
	}
	if _, err := check(before); err == nil || !strings.Contains(err.Error(), "not what its source compiles to") {
		t.Errorf("changed machine code was not found out: %v", err)
	}
}
