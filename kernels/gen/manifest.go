package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// A manifest is the file SUMS: what is in bin/, what each file was made from, and
// what the compiler said of each kernel.
type manifest struct{ images []imageEntry }

// An imageEntry is one file of bin/.
type imageEntry struct {
	file    string // probe.sm_90a.cubin; in bin/ with .zst behind it
	source  string // tree.key of what it was made from
	image   string // SHA-256 of the machine code, uncompressed
	kernels []kernelEntry
}

// A kernelEntry is one kernel of an image. Only the parameters' size is known of
// PTX; the rest is decided by the driver.
type kernelEntry struct {
	name      string
	params    int // bytes of its one parameter
	registers int // of a thread
	stack     int // bytes of local memory of a thread, spills included
	spills    int // bytes stored to local memory for want of registers
	shared    int // bytes of static shared memory of a block
	code      int // bytes of instructions
}

const (
	imageForm  = "%s source=%s image=%s\n"
	kernelForm = "  %s params=%d registers=%d stack=%d spills=%d shared=%d code=%d\n"
)

func parseManifest(text string) (*manifest, error) {
	m := &manifest{}
	for n, line := range strings.Split(text, "\n") {
		fail := fmt.Errorf("SUMS:%d: %q: run make kernels", n+1, line)
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "  "):
			if len(m.images) == 0 {
				return nil, fail
			}
			var k kernelEntry
			if _, err := fmt.Sscanf(line+"\n", kernelForm, &k.name, &k.params, &k.registers, &k.stack, &k.spills, &k.shared, &k.code); err != nil {
				return nil, fail
			}
			last := &m.images[len(m.images)-1]
			last.kernels = append(last.kernels, k)
		default:
			var e imageEntry
			if _, err := fmt.Sscanf(line+"\n", imageForm, &e.file, &e.source, &e.image); err != nil {
				return nil, fail
			}
			if m.find(e.file) != nil {
				return nil, fail
			}
			m.images = append(m.images, e)
		}
	}
	return m, nil
}

// readManifest reads SUMS; one that is not there is empty.
func readManifest(file string) (*manifest, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return &manifest{}, nil
	} else if err != nil {
		return nil, err
	}
	return parseManifest(string(data))
}

// text is the content of SUMS.
func (m *manifest) text(compiler []string) string {
	var b strings.Builder
	b.WriteString("# " + generated + "\n")
	b.WriteString("# What bin/ holds. source: SHA-256 of the sources, headers, compiler and options that it\n")
	b.WriteString("# was made from; image: SHA-256 of the machine code, uncompressed; below it the kernels.\n")
	b.WriteString("# Bytes, but for registers. Of PTX only params is known.\n")
	fmt.Fprintf(&b, "# compiler: %s\n# options: %s\n", strings.Join(compiler, " "), strings.Join(options, " "))
	for _, e := range m.images {
		fmt.Fprintf(&b, imageForm, e.file, e.source, e.image)
		for _, k := range e.kernels {
			fmt.Fprintf(&b, kernelForm, k.name, k.params, k.registers, k.stack, k.spills, k.shared, k.code)
		}
	}
	return b.String()
}

func (m *manifest) find(file string) *imageEntry {
	for i := range m.images {
		if m.images[i].file == file {
			return &m.images[i]
		}
	}
	return nil
}

// set puts an entry in the place of the one of the same file; entries stay sorted.
func (m *manifest) set(e imageEntry) {
	i, found := slices.BinarySearchFunc(m.images, e.file, func(e imageEntry, file string) int { return strings.Compare(e.file, file) })
	if found {
		m.images[i] = e
	} else {
		m.images = slices.Insert(m.images, i, e)
	}
}

// A tableRow is one kernel of the generated table.
type tableRow struct {
	family, name, params string
	size                 int
	targets              []string // nil if every target of the family has it
}

// table makes the rows from the kernels that the manifest lists.
func (t *tree) table(m *manifest) ([]tableRow, error) {
	var rows []tableRow
	byName := map[string]string{}
	for _, f := range t.families {
		has := map[string][]string{}
		var names []string
		for _, tg := range f.targets {
			e := m.find(f.file(tg))
			if e == nil {
				continue
			}
			for _, k := range e.kernels {
				if has[k.name] == nil {
					names = append(names, k.name)
				}
				has[k.name] = append(has[k.name], tg.name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			if other, taken := byName[name]; taken {
				return nil, fmt.Errorf("the kernel %s is in two families: %s and %s", name, other, f.name)
			}
			byName[name] = f.name
			d, err := t.params.bind(name)
			if err != nil {
				return nil, err
			}
			row := tableRow{family: f.name, name: name, params: d.name, size: d.size, targets: has[name]}
			if len(row.targets) == len(f.targets) {
				row.targets = nil
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// unbound reports the lines "kernel:" of params.h that no kernel matches.
func (t *tree) unbound(rows []tableRow) error {
	for _, b := range t.params.bindings {
		if !slices.ContainsFunc(rows, func(r tableRow) bool { return b.matches(r.name) }) {
			return fmt.Errorf("params.h: kernel: %s matches no kernel", b.pattern)
		}
	}
	return nil
}

// file is the name of the family's image for a target.
func (f family) file(tg target) string { return f.name + "." + tg.name + tg.suffix() }
