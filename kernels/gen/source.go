package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A target is one kind of machine code.
type target struct {
	name string // as NVRTC's --gpu-architecture takes it
	ptx  bool
}

// targets are made of each family, unless its source says otherwise. sm_90a is
// Hopper with its own instructions (wgmma, TMA) and runs nowhere else; the PTX is
// for everything that comes later.
var targets = []target{
	{name: "sm_80"}, {name: "sm_86"}, {name: "sm_89"}, {name: "sm_90a"}, {name: "sm_100"}, {name: "sm_120"},
	{name: "compute_80", ptx: true},
}

// options are given to the compiler for each family and target. What is not here
// is left as it is: fused multiply-add on, no fast math, no line information.
var options = []string{"--std=c++17"}

// suffix ends the name of an image: kernels.Image reads the kind from it.
func (t target) suffix() string {
	if t.ptx {
		return ".ptx"
	}
	return ".cubin"
}

// A source is one file as the compiler sees it.
type source struct{ name, text string }

// A family is one .cu file with all it includes: what its machine code is made of.
type family struct {
	name    string
	files   []source // the .cu file first, then its headers by name
	targets []target
}

// A tree is the folder kernels/ as far as it is compiled.
type tree struct {
	dir      string
	compiler []string // the packages, "name==version"
	params   *params
	families []family // by name
}

func readTree(dir string) (*tree, error) {
	pins, err := os.ReadFile(filepath.Join(dir, "compiler.txt"))
	if err != nil {
		return nil, err
	}
	t := &tree{dir: dir}
	for line := range strings.SplitSeq(string(pins), "\n") {
		if pin, _, ok := strings.Cut(line, " --hash="); ok && !strings.HasPrefix(line, "#") {
			t.compiler = append(t.compiler, pin)
		}
	}
	if len(t.compiler) == 0 {
		return nil, errors.New("compiler.txt pins no package")
	}
	text, err := os.ReadFile(filepath.Join(dir, "params.h"))
	if err != nil {
		return nil, err
	}
	if t.params, err = parseParams(string(text)); err != nil {
		return nil, err
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.cu"))
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		f, err := t.readFamily(filepath.Base(name))
		if err != nil {
			return nil, err
		}
		t.families = append(t.families, f)
	}
	if len(t.families) == 0 {
		return nil, fmt.Errorf("%s holds no .cu file", dir)
	}
	return t, nil
}

var (
	familyName     = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	includeLine    = regexp.MustCompile(`(?m)^[ \t]*#[ \t]*include\b(.*)$`)
	includeOwn     = regexp.MustCompile(`^[ \t]*"([a-z0-9_]+\.(?:h|cuh))"[ \t]*(?://.*)?$`)
	includePackage = regexp.MustCompile(`^[ \t]*<[a-z0-9_/]+(?:\.h)?>[ \t]*(?://.*)?$`)
	targetsLine    = regexp.MustCompile(`(?m)^//[ \t]*targets:(.*)$`)
)

// The headers that gen makes for each family.
const (
	paramsHeader = "params.h"
	checkHeader  = "params_check.h"
)

// readFamily collects the .cu file and the headers that it includes, whatever
// #if they stand behind.
func (t *tree) readFamily(file string) (family, error) {
	f := family{name: strings.TrimSuffix(file, ".cu")}
	if !familyName.MatchString(f.name) {
		return f, fmt.Errorf("%s: a family is named in lower case, digits and _", file)
	}
	seen := map[string]bool{}
	var texts []string
	var visit func(name, from string) error
	visit = func(name, from string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		if name == paramsHeader || name == checkHeader {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(t.dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s includes %q, which is not in kernels/", from, name)
		} else if err != nil {
			return err
		}
		text := string(data)
		f.files = append(f.files, source{name, text})
		texts = append(texts, text)
		for _, m := range includeLine.FindAllStringSubmatch(text, -1) {
			if own := includeOwn.FindStringSubmatch(m[1]); own != nil {
				if err := visit(own[1], name); err != nil {
					return err
				}
			} else if !includePackage.MatchString(m[1]) {
				return fmt.Errorf(`%s: #include%s is neither a "header" in kernels/ nor one of the compiler's <packages>`, name, m[1])
			}
		}
		return nil
	}
	if err := visit(file, ""); err != nil {
		return f, err
	}
	if !seen[paramsHeader] || !seen[checkHeader] {
		return f, fmt.Errorf("%s does not include \"kigo.cuh\"", file)
	}
	need := t.params.need(texts...)
	f.files = append(f.files, source{paramsHeader, declarations(need)}, source{checkHeader, checks(need)})
	slices.SortFunc(f.files[1:], func(a, b source) int { return strings.Compare(a.name, b.name) })

	f.targets = targets
	if m := targetsLine.FindStringSubmatch(f.files[0].text); m != nil {
		f.targets = nil
		for name := range strings.FieldsSeq(m[1]) {
			i := slices.IndexFunc(targets, func(t target) bool { return t.name == name })
			if i < 0 {
				return f, fmt.Errorf("%s: unknown target %q", file, name)
			}
			f.targets = append(f.targets, targets[i])
		}
		if len(f.targets) == 0 {
			return f, fmt.Errorf("%s: \"// targets:\" names none", file)
		}
	}
	return f, nil
}

// key is the hash of everything that decides a family's machine code for a target.
func (t *tree) key(f family, tg target) string {
	h := sha256.New()
	fmt.Fprintf(h, "compiler %q\noptions %q\ntarget %q\n", t.compiler, options, tg.name)
	for _, s := range f.files {
		fmt.Fprintf(h, "file %q %x\n", s.name, sha256.Sum256([]byte(s.text)))
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
