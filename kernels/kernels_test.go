package kernels

import (
	"bytes"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
)

// The two compilers agree on every offset: Go's own numbers against those that
// the CUDA compiler confirmed.
func TestLayout(t *testing.T) {
	if len(layouts) == 0 {
		t.Fatal("no layouts")
	}
	for _, l := range layouts {
		if l.got != l.want {
			t.Errorf("%s: Go says %d, C++ %d", l.name, l.got, l.want)
		}
	}
}

// All machine code together stays small, since every binary carries it.
func TestSize(t *testing.T) {
	const limit = 4 << 20
	total := int64(0)
	entries, err := fs.ReadDir(bin, "bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > limit {
		t.Errorf("the machine code has %d bytes compressed, %d are the limit", total, limit)
	}
	t.Logf("%d files, %d bytes", len(entries), total)
}

func TestImage(t *testing.T) {
	for _, test := range []struct {
		major, minor int
		want         string
	}{
		{8, 0, "sm_80"},
		{8, 6, "sm_86"},
		{8, 7, "compute_80"}, // Orin: desktop machine code is not promised to run
		{8, 9, "sm_89"},
		{9, 0, "sm_90a"},
		{9, 1, "compute_80"}, // sm_90a runs on 9.0 alone
		{10, 0, "sm_100"},
		{10, 1, "compute_80"}, // Thor
		{10, 3, "sm_100"},
		{11, 0, "compute_80"},
		{12, 0, "sm_120"},
		{12, 1, "sm_120"},
		{13, 0, "compute_80"},
	} {
		image, target, err := Image("probe", test.major, test.minor)
		if err != nil || target != test.want {
			t.Errorf("%d.%d: got %q, %v; want %s", test.major, test.minor, target, err, test.want)
			continue
		}
		if strings.HasPrefix(target, "compute_") {
			if !bytes.Contains(image, []byte(".target sm_80")) || image[len(image)-1] != 0 {
				t.Errorf("%d.%d: not PTX for 8.0 that ends with NUL", test.major, test.minor)
			}
		} else if !bytes.HasPrefix(image, []byte("\x7fELF")) {
			t.Errorf("%d.%d: not an ELF file", test.major, test.minor)
		}
		same, err := ImageOf("probe", target)
		if err != nil || !bytes.Equal(image, same) {
			t.Errorf("ImageOf(%s): other bytes than Image, %v", target, err)
		}
	}

	_, _, err := Image("probe", 7, 5)
	want := "kernels: probe needs a GPU of compute capability 8.0 or higher; this one has 7.5: compute capability not supported"
	if !errors.Is(err, ErrUnsupported) || err.Error() != want {
		t.Errorf("7.5: %v; want %s", err, want)
	}
	if _, _, err := Image("nonesuch", 9, 0); err == nil || errors.Is(err, ErrUnsupported) {
		t.Errorf("unknown family: %v", err)
	}
	if _, err := ImageOf("probe", "sm_75"); err == nil {
		t.Error("ImageOf gave code for sm_75")
	}
}

// The choice among images that no family has today.
func TestChoice(t *testing.T) {
	for _, test := range []struct {
		file         string
		major, minor int
		want         bool
	}{
		{"x.sm_90.cubin.zst", 9, 0, true},
		{"x.sm_90a.cubin.zst", 9, 0, true},
		{"x.sm_100a.cubin.zst", 10, 3, false},
		{"x.sm_87.cubin.zst", 8, 7, true},
		{"x.sm_80.cubin.zst", 8, 7, false},
		{"x.sm_80.cubin.zst", 9, 0, false},
		{"x.sm_89.cubin.zst", 8, 6, false},
		{"x.compute_90.ptx.zst", 8, 9, false},
		{"x.compute_90.ptx.zst", 12, 0, true},
	} {
		i, ok := parseName(test.file)
		if !ok || i.runsOn(test.major, test.minor) != test.want {
			t.Errorf("%s on %d.%d: got %v, %v", test.file, test.major, test.minor, !test.want, ok)
		}
	}
	portable, _ := parseName("x.sm_90.cubin.zst")
	exact, _ := parseName("x.sm_90a.cubin.zst")
	if !exact.better(&portable) || portable.better(&exact) {
		t.Error("sm_90a does not go before sm_90 on 9.0")
	}
	for _, file := range []string{"x.sm_90a.ptx.zst", "x.compute_80.cubin.zst", "x.zst", "x.sm_.cubin.zst", "x.gfx90.cubin.zst"} {
		if _, ok := parseName(file); ok {
			t.Errorf("%s was taken for an image", file)
		}
	}
}

// Every kernel of the table is found, and its name is in each image that is said
// to hold it.
func TestKernels(t *testing.T) {
	families := Families()
	if !slices.IsSorted(families) || !slices.Contains(families, "probe") {
		t.Errorf("families: %q", families)
	}
	total := 0
	for _, family := range families {
		kernels := Kernels(family)
		if len(kernels) == 0 {
			t.Errorf("%s has no kernels", family)
		}
		total += len(kernels)
		for _, k := range kernels {
			if found, ok := Find(k.Name); !ok || found.Family != family || found.Size != k.Size {
				t.Errorf("Find(%s): %v, %v", k.Name, found, ok)
			}
			held := k.Targets
			if held == nil {
				held = Targets(family)
			}
			for _, target := range held {
				image, err := ImageOf(family, target)
				if err != nil || !bytes.Contains(image, []byte(k.Name)) {
					t.Errorf("%s for %s does not hold %s: %v", family, target, k.Name, err)
				}
			}
		}
	}
	if total != len(table) {
		t.Errorf("%d kernels in all families, %d in the table", total, len(table))
	}
	if _, ok := Find("nonesuch"); ok || Kernels("nonesuch") != nil || Targets("nonesuch") != nil {
		t.Error("a family or kernel that is not there was found")
	}
}

// All families for one GPU: what a start pays.
func BenchmarkImages(b *testing.B) {
	for b.Loop() {
		for _, family := range Families() {
			if _, _, err := Image(family, 9, 0); err != nil {
				b.Fatal(err)
			}
		}
	}
}
