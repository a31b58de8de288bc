package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// A job is a family to compile for a target.
type job struct {
	family family
	target target
}

func (j job) file() string { return j.family.file(j.target) }

// stale lists what bin/ lacks or holds of other sources, for the families and
// targets that are selected.
func (t *tree) stale(m *manifest, sel selection) []job {
	var jobs []job
	for _, f := range t.families {
		for _, tg := range f.targets {
			if !sel.has(f.name, tg.name) {
				continue
			}
			e := m.find(f.file(tg))
			if e == nil || e.source != t.key(f, tg) || t.checkFile(*e) != nil {
				jobs = append(jobs, job{f, tg})
			}
		}
	}
	return jobs
}

// A selection names families and targets; none stands for all.
type selection struct{ families, targets []string }

// has says whether a family is selected for a target; "" stands for any.
func (s selection) has(family, target string) bool {
	return (len(s.families) == 0 || slices.Contains(s.families, family)) &&
		(len(s.targets) == 0 || slices.Contains(s.targets, target) || target == "")
}

// checkNames reports what is selected and not there.
func (s selection) checkNames(t *tree) error {
	for _, name := range s.families {
		if !slices.ContainsFunc(t.families, func(f family) bool { return f.name == name }) {
			return fmt.Errorf("there is no %s.cu", name)
		}
	}
	for _, name := range s.targets {
		if !slices.ContainsFunc(targets, func(t target) bool { return t.name == name }) {
			return fmt.Errorf("there is no target %s", name)
		}
	}
	return nil
}

// build compiles what is stale among the selected, and writes bin/, SUMS and the
// generated files. What compiled is kept when another family does not.
func (t *tree) build(ctx context.Context, cuda string, sel selection, out io.Writer) error {
	sums := filepath.Join(t.dir, "SUMS")
	m, err := readManifest(sums)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(t.dir, "bin"), 0o755); err != nil {
		return err
	}
	jobs := t.stale(m, sel)
	var mu sync.Mutex // guards m and SUMS
	err = t.compile(ctx, cuda, jobs, out, func(j job, r result) error {
		if err := t.writeImage(j.file(), r.image); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		m.set(imageEntry{file: j.file(), source: t.key(j.family, j.target), image: sum(r.image), kernels: r.kernels})
		return writeFile(sums, []byte(m.text(t.compiler)))
	})
	if pruneErr := t.prune(m); pruneErr != nil {
		return errors.Join(err, pruneErr)
	}
	if writeErr := writeFile(sums, []byte(m.text(t.compiler))); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	if err != nil {
		return err
	}
	return t.generate(m, len(t.stale(m, selection{})) == 0)
}

// A result is a family compiled for a target.
type result struct {
	image   []byte
	kernels []kernelEntry
}

// compile runs the jobs, as many at a time as there are processors, and hands each
// result to done, which several goroutines may call. All jobs are tried; the
// errors of those that failed are joined.
func (t *tree) compile(ctx context.Context, cuda string, jobs []job, out io.Writer, done func(job, result) error) error {
	if len(jobs) == 0 {
		return nil
	}
	c, err := openCompiler(cuda)
	if err != nil {
		return err
	}
	var mu sync.Mutex               // guards out and failed
	failed := map[string][]string{} // by message, as targets mostly fail alike
	one := func(j job) {
		start := time.Now()
		r, warnings, err := t.compileOne(c, j)
		if err == nil {
			err = done(j, r)
		}
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			message := j.family.name + ": " + err.Error()
			failed[message] = append(failed[message], j.target.name)
			return
		}
		fmt.Fprintf(out, "%-32s %7d bytes %7.1f s\n", j.file(), len(r.image), time.Since(start).Seconds())
		if warnings != "" {
			fmt.Fprintln(out, warnings)
		}
		for _, k := range r.kernels {
			if k.spills > 0 {
				fmt.Fprintf(out, "  %s spills %d bytes at %d registers\n", k.name, k.spills, k.registers)
			}
		}
	}
	queue := make(chan job, len(jobs))
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	var workers sync.WaitGroup
	for range runtime.NumCPU() {
		workers.Go(func() {
			for j := range queue {
				if ctx.Err() == nil {
					one(j)
				}
			}
		})
	}
	workers.Wait()
	errs := []error{ctx.Err()}
	for _, message := range slices.Sorted(maps.Keys(failed)) {
		slices.Sort(failed[message])
		errs = append(errs, fmt.Errorf("%s\n(for %s)", message, strings.Join(failed[message], ", ")))
	}
	return errors.Join(errs...)
}

// compileOne compiles, and checks each kernel: that params.h says which struct it
// takes, that it takes that one, and that its size is the one Go counts on.
func (t *tree) compileOne(c *compiler, j job) (r result, warnings string, err error) {
	image, log, err := c.run(j.family.files, j.target, false)
	if err != nil {
		return r, "", err
	}
	kernels, err := readImage(image, j.target.ptx)
	if err != nil {
		return r, "", err
	}
	warnings = log
	if !j.target.ptx {
		if warnings, err = readUsage(log, kernels); err != nil {
			return r, "", err
		}
	}
	text := j.family.files[0].text + typeCheck
	for _, k := range kernels {
		d, err := t.params.bind(k.name)
		if err != nil {
			return r, "", err
		}
		if k.params != d.size {
			return r, "", fmt.Errorf("the kernel %s takes %d bytes, %s has %d", k.name, k.params, d.name, d.size)
		}
		text += fmt.Sprintf("static_assert(kigo_same<decltype(%s), void(%s)>::value, \"%s takes another struct than %s\");\n", k.name, d.name, k.name, d.name)
	}
	checked := append([]source{{j.family.files[0].name, text}}, j.family.files[1:]...)
	if _, _, err := c.run(checked, j.target, true); err != nil {
		return r, "", err
	}
	return result{image: image, kernels: kernels}, warnings, nil
}

// typeCheck stands behind a family's source in the pass that compares the types
// of its kernels with params.h.
const typeCheck = `
template <class A, class B> struct kigo_same { static constexpr bool value = false; };
template <class A> struct kigo_same<A, A> { static constexpr bool value = true; };
`

// check compiles again, for the selected targets, what the manifest has other than
// base, or the smallest family if all is as it was, and compares the bytes. A
// family that is not made for any of these targets is compiled for its first one.
func (t *tree) check(ctx context.Context, cuda string, base *manifest, sel selection, out io.Writer) error {
	m, err := readManifest(filepath.Join(t.dir, "SUMS"))
	if err != nil {
		return err
	}
	if err := t.verify(m); err != nil {
		return err
	}
	var jobs, all []job
	for _, f := range t.families {
		checked := slices.DeleteFunc(slices.Clone(f.targets), func(tg target) bool { return !sel.has(f.name, tg.name) })
		if len(checked) == 0 && sel.has(f.name, "") {
			checked = f.targets[:1]
		}
		for _, tg := range checked {
			all = append(all, job{f, tg})
			now, before := m.find(f.file(tg)), base.find(f.file(tg))
			if before == nil || before.source != now.source || before.image != now.image {
				jobs = append(jobs, job{f, tg})
			}
		}
	}
	if len(jobs) == 0 && len(all) > 0 {
		code := func(j job) (n int) {
			for _, k := range m.find(j.file()).kernels {
				n += k.code
			}
			return n
		}
		jobs = []job{slices.MinFunc(all, func(a, b job) int { return code(a) - code(b) })}
	}
	return t.compile(ctx, cuda, jobs, out, func(j job, r result) error {
		if want := m.find(j.file()).image; sum(r.image) != want {
			return fmt.Errorf("the committed machine code is not what its source compiles to: run make kernels")
		}
		return nil
	})
}

// prune removes from bin/ and the manifest what no family makes.
func (t *tree) prune(m *manifest) error {
	made := map[string]bool{}
	for _, f := range t.families {
		for _, tg := range f.targets {
			made[f.file(tg)] = true
		}
	}
	m.images = slices.DeleteFunc(m.images, func(e imageEntry) bool { return !made[e.file] })
	entries, err := os.ReadDir(filepath.Join(t.dir, "bin"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !made[strings.TrimSuffix(e.Name(), ".zst")] {
			if err := os.Remove(filepath.Join(t.dir, "bin", e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// The files made from params.h and SUMS.
const (
	goFile     = "params_gen.go"
	goTestFile = "params_gen_test.go"
)

// outputs makes the generated files. With whole, everything is compiled, and a
// line "kernel:" of params.h that no kernel matches is an error.
func (t *tree) outputs(m *manifest, whole bool) (map[string][]byte, error) {
	rows, err := t.table(m)
	if err != nil {
		return nil, err
	}
	if whole {
		if err := t.unbound(rows); err != nil {
			return nil, err
		}
	}
	code, err := mirror(t.params, rows)
	if err != nil {
		return nil, err
	}
	test, err := mirrorTest(t.params)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{goFile: code, goTestFile: test, checkHeader: []byte(checks(t.params.decls))}, nil
}

func (t *tree) generate(m *manifest, whole bool) error {
	files, err := t.outputs(m, whole)
	if err != nil {
		return err
	}
	for name, data := range files {
		if err := writeFile(filepath.Join(t.dir, name), data); err != nil {
			return err
		}
	}
	return nil
}

// writeImage compresses an image into bin/.
func (t *tree) writeImage(file string, image []byte) error {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(t.dir, "bin", file+".zst"), w.EncodeAll(image, nil))
}

// readImageFile uncompresses an image of bin/.
func (t *tree) readImageFile(file string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(t.dir, "bin", file+".zst"))
	if err != nil {
		return nil, err
	}
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxImage))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	image, err := r.DecodeAll(data, nil)
	if err != nil {
		return nil, fmt.Errorf("bin/%s.zst: %w", file, err)
	}
	return image, nil
}

// maxImage bounds an uncompressed image.
const maxImage = 64 << 20

// checkFile compares a file of bin/ with its sum.
func (t *tree) checkFile(e imageEntry) error {
	image, err := t.readImageFile(e.file)
	if err != nil {
		return err
	}
	if got := sum(image); got != e.image {
		return fmt.Errorf("bin/%s.zst holds %s, SUMS says %s", e.file, got, e.image)
	}
	return nil
}

// writeFile writes a file if its content is another, in one step.
func writeFile(name string, data []byte) error {
	if old, err := os.ReadFile(name); err == nil && string(old) == string(data) {
		return nil
	}
	temporary := name + ".new"
	if err := os.WriteFile(temporary, data, 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, name)
}

func sum(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }
