package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// verify reports everything in which the committed files differ from each other:
// machine code of other sources, images of another sum, kernels that the manifest
// lists otherwise, strangers in bin/, generated files that are not up to date. It
// needs no compiler.
func (t *tree) verify(m *manifest) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	made := map[string]bool{}
	for _, f := range t.families {
		for _, tg := range f.targets {
			file := f.file(tg)
			made[file] = true
			e := m.find(file)
			if e == nil {
				fail("%s was not compiled for %s", f.name, tg.name)
				continue
			}
			if e.source != t.key(f, tg) {
				fail("%s was compiled for %s from other sources", f.name, tg.name)
			}
			if err := t.verifyImage(*e, tg.ptx); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for _, e := range m.images {
		if !made[e.file] {
			fail("SUMS lists %s, which no family makes", e.file)
		}
	}
	if text, err := os.ReadFile(filepath.Join(t.dir, "SUMS")); err != nil {
		errs = append(errs, err)
	} else if string(text) != m.text(t.compiler) {
		fail("SUMS is not as make kernels writes it")
	}
	entries, err := os.ReadDir(filepath.Join(t.dir, "bin"))
	if err != nil {
		errs = append(errs, err)
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".zst"); !ok || !made[name] {
			fail("bin/%s belongs to no family", e.Name())
		}
	}
	files, err := t.outputs(m, true)
	if err != nil {
		errs = append(errs, err)
	}
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(t.dir, name)); err != nil {
			errs = append(errs, err)
		} else if string(got) != string(want) {
			fail("%s is not what params.h and SUMS say", name)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w\nrun make kernels, and commit what it writes", errors.Join(errs...))
	}
	return nil
}

// verifyImage compares an image with what the manifest says of it.
func (t *tree) verifyImage(e imageEntry, ptx bool) error {
	if err := t.checkFile(e); err != nil {
		return err
	}
	image, err := t.readImageFile(e.file)
	if err != nil {
		return err
	}
	kernels, err := readImage(image, ptx)
	if err != nil {
		return fmt.Errorf("%s: %w", e.file, err)
	}
	if !slices.EqualFunc(kernels, e.kernels, func(a, b kernelEntry) bool {
		return a.name == b.name && a.params == b.params && a.code == b.code
	}) {
		return fmt.Errorf("%s holds other kernels than SUMS says", e.file)
	}
	return nil
}
