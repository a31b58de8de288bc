// Package kernels holds the machine code of the GPU kernels, compiled ahead and
// embedded, and the Go mirror of their parameters. It knows no driver: it hands
// out bytes and says what is in them. README.md says how they are made.
package kernels

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// bin holds FAMILY.TARGET.cubin.zst and FAMILY.TARGET.ptx.zst.
//
//go:embed bin/*.zst
var bin embed.FS

// ErrUnsupported is wrapped by the error of Image for a GPU that no code of the
// family runs on.
var ErrUnsupported = errors.New("compute capability not supported")

// Ptr is an address in the device's memory, as kernels see it.
type Ptr uint64

// A Kernel is one row of the table of kernels.
type Kernel struct {
	Family  string   // the image that holds it
	Name    string   // as the driver finds it
	Params  string   // the struct that it takes, its one parameter
	Size    int      // bytes of that struct
	Targets []string // the targets whose image holds it; nil stands for all of the family's
}

// Kernels lists the kernels of a family by name; none for an unknown family.
func Kernels(family string) []Kernel {
	var out []Kernel
	for _, k := range table {
		if k.Family == family {
			out = append(out, k)
		}
	}
	return out
}

// Find returns the kernel of that name.
func Find(name string) (Kernel, bool) {
	for _, k := range table {
		if k.Name == name {
			return k, true
		}
	}
	return Kernel{}, false
}

// Families lists the families by name.
func Families() []string {
	var out []string
	for _, i := range images() {
		if !slices.Contains(out, i.family) {
			out = append(out, i.family)
		}
	}
	return out
}

// Targets lists what a family is compiled for: sm_90a, compute_80, …
func Targets(family string) []string {
	var out []string
	for _, i := range images() {
		if i.family == family {
			out = append(out, i.target)
		}
	}
	return out
}

// Image returns the family's code for a GPU of the compute capability major.minor,
// and says which target it is of. Machine code comes first, made for this very
// capability or else for the next lower one of the same major; then PTX, which the
// driver compiles. The bytes are the caller's. PTX ends with the NUL that
// cuLibraryLoadData wants.
func Image(family string, major, minor int) (image []byte, target string, err error) {
	var best *embedded
	var needs []string // PTX, which runs on most, comes last and says it all
	found := images()
	for n := range found {
		i := &found[n]
		if i.family != family {
			continue
		}
		if i.ptx {
			needs = nil
		}
		needs = append(needs, i.needs())
		if i.runsOn(major, minor) && (best == nil || i.better(best)) {
			best = i
		}
	}
	switch {
	case len(needs) == 0:
		return nil, "", fmt.Errorf("kernels: there is no family %q", family)
	case best == nil:
		return nil, "", fmt.Errorf("kernels: %s needs a GPU of compute capability %s; this one has %d.%d: %w",
			family, strings.Join(needs, ", "), major, minor, ErrUnsupported)
	}
	image, err = best.read()
	return image, best.target, err
}

// ImageOf returns the family's code for a target by name, for tests of a target
// that Image would not choose.
func ImageOf(family, target string) ([]byte, error) {
	for _, i := range images() {
		if i.family == family && i.target == target {
			return i.read()
		}
	}
	return nil, fmt.Errorf("kernels: there is no code of %q for %q", family, target)
}

// An embedded is one file of bin/.
type embedded struct {
	file           string
	family, target string
	major, minor   int
	exact          bool // sm_90a and the like: for this capability only
	ptx            bool
}

// images lists the files, machine code of a family before its PTX, lower
// capabilities first.
func images() []embedded {
	entries, err := fs.ReadDir(bin, "bin")
	if err != nil {
		panic(err) // the folder is embedded, or the package does not compile
	}
	var out []embedded
	for _, e := range entries {
		if i, ok := parseName(e.Name()); ok {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b embedded) int {
		if c := strings.Compare(a.family, b.family); c != 0 {
			return c
		}
		if a.ptx != b.ptx {
			if a.ptx {
				return 1
			}
			return -1
		}
		return a.capability() - b.capability()
	})
	return out
}

// parseName reads FAMILY.sm_90a.cubin.zst or FAMILY.compute_80.ptx.zst; the last
// digit is the minor.
func parseName(file string) (i embedded, ok bool) {
	parts := strings.Split(file, ".")
	if len(parts) != 4 {
		return i, false
	}
	i = embedded{file: file, family: parts[0], target: parts[1], ptx: parts[2] == "ptx"}
	digits, isMachine := strings.CutPrefix(i.target, "sm_")
	if !isMachine {
		digits, _ = strings.CutPrefix(i.target, "compute_")
	}
	digits, i.exact = strings.CutSuffix(digits, "a")
	n, err := strconv.Atoi(digits)
	i.major, i.minor = n/10, n%10
	return i, err == nil && n >= 10 && isMachine != i.ptx
}

func (i *embedded) capability() int { return i.major*10 + i.minor }

// tegra are the capabilities of the Tegra line, on which the machine code of other
// GPUs is not promised to run.
var tegra = [...][2]int{{8, 7}, {10, 1}, {11, 0}}

// runsOn follows NVIDIA's rules of compatibility.
func (i *embedded) runsOn(major, minor int) bool {
	same := i.major == major && i.minor == minor
	switch {
	case i.exact:
		return same
	case i.ptx:
		return i.major < major || i.major == major && i.minor <= minor
	case slices.Contains(tegra[:], [2]int{major, minor}):
		return same
	}
	return i.major == major && i.minor <= minor
}

// better says that i goes before j on a GPU on which both run.
func (i *embedded) better(j *embedded) bool {
	if i.ptx != j.ptx {
		return j.ptx
	}
	if i.capability() != j.capability() {
		return i.capability() > j.capability()
	}
	return i.exact && !j.exact
}

// needs says in words what the code runs on.
func (i *embedded) needs() string {
	capability := fmt.Sprintf("%d.%d", i.major, i.minor)
	switch {
	case i.ptx:
		return capability + " or higher"
	case i.exact:
		return capability
	}
	return fmt.Sprintf("%s to %d.9", capability, i.major)
}

// maxImage bounds an uncompressed image, in bytes.
const maxImage = 64 << 20

func (i *embedded) read() ([]byte, error) {
	data, err := bin.ReadFile("bin/" + i.file)
	if err != nil {
		return nil, fmt.Errorf("kernels: %w", err)
	}
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxImage))
	if err != nil {
		return nil, fmt.Errorf("kernels: %w", err)
	}
	defer r.Close()
	image, err := r.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("kernels: %s: %w", i.file, err)
	}
	return image, nil
}
