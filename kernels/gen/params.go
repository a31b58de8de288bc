package main

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A params is what params.h declares, in its order.
type params struct {
	decls    []*decl
	byName   map[string]*decl
	bindings []binding // which kernel takes which struct
}

// A decl is a struct or an integer constant.
type decl struct {
	name   string
	doc    []string // comment lines above it, without the slashes
	fields []field  // of a struct
	size   int      // bytes of a struct, a multiple of align
	align  int

	constant bool
	typ      string // of a constant: int32_t, …
	value    string
}

// A field is one member of a struct. Its size is that of one element times dims.
type field struct {
	name    string
	comment string
	ctype   string // as in C, without dims: "const void *", "uint32_t", "ProbeInner"
	elem    string // the C name that decides its Go type; "*" for pointers
	dims    []int
	offset  int
	size    int
	align   int
}

// A binding says that kernels whose names match the pattern (of path.Match) take
// the struct.
type binding struct{ pattern, structName string }

// matches cannot fail: parseParams lets no pattern pass that path.Match refuses.
func (b binding) matches(kernel string) bool {
	ok, err := path.Match(b.pattern, kernel)
	return ok && err == nil
}

// maxParams bounds a struct: what a kernel can take on every driver.
const maxParams = 4096

// scalars are the C types that may stand in params.h: Go's name, size and alignment.
var scalars = map[string]struct {
	goName string
	size   int
}{
	"uint8_t": {"uint8", 1}, "int8_t": {"int8", 1},
	"uint16_t": {"uint16", 2}, "int16_t": {"int16", 2},
	"uint32_t": {"uint32", 4}, "int32_t": {"int32", 4},
	"uint64_t": {"uint64", 8}, "int64_t": {"int64", 8},
	"float": {"float32", 4}, "double": {"float64", 8},
}

var (
	commentLine  = regexp.MustCompile(`^//\s?(.*)$`)
	bindingLine  = regexp.MustCompile(`^kernel:`)
	bindingForm  = regexp.MustCompile(`^kernel: ([a-z0-9_*]+) ([A-Z]\w*)$`)
	structLine   = regexp.MustCompile(`^struct ([A-Z]\w*) \{$`)
	fieldLine    = regexp.MustCompile(`^(?:const )?(\w+)(?: ?(\*) ?(?:__restrict__ )?| )([a-z]\w*)((?:\[\d+\])*);(?:\s*//\s?(.*))?$`)
	constantLine = regexp.MustCompile(`^constexpr (u?int(?:8|16|32|64)_t) (k[A-Z]\w*) = (-?\d+|0x[0-9a-fA-F]+);(?:\s*//\s?(.*))?$`)
	dimension    = regexp.MustCompile(`\d+`)
)

// parseParams reads params.h. It knows the few forms that README.md lists and
// refuses every other line, so that nothing is there that Go does not see.
func parseParams(text string) (*params, error) {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool {
		return r != '\n' && r != '\t' && !unicode.IsPrint(r)
	}) {
		return nil, errors.New("params.h is not plain text in UTF-8 with Unix line ends")
	}
	p := &params{byName: map[string]*decl{}}
	var open *decl
	var doc []string
	for n, raw := range strings.Split(text, "\n") {
		line := strings.TrimSpace(raw)
		fail := func(format string, args ...any) error {
			return fmt.Errorf("params.h:%d: %s", n+1, fmt.Sprintf(format, args...))
		}
		switch {
		case open != nil:
			if line == "};" {
				if len(open.fields) == 0 {
					return nil, fail("struct %s has no fields", open.name)
				}
				open.size = roundUp(open.end(), open.align)
				if open.size > maxParams {
					return nil, fail("struct %s has %d bytes, %d are the limit", open.name, open.size, maxParams)
				}
				if err := p.add(open); err != nil {
					return nil, fail("%v", err)
				}
				open = nil
				continue
			}
			if line == "" || commentLine.MatchString(line) {
				continue
			}
			if err := p.addField(open, line); err != nil {
				return nil, fail("%v", err)
			}
		case line == "":
			doc = nil
		case line == "#pragma once":
		case commentLine.MatchString(line):
			comment := commentLine.FindStringSubmatch(line)[1]
			if bindingLine.MatchString(comment) {
				m := bindingForm.FindStringSubmatch(comment)
				if m == nil {
					return nil, fail("%q is not of the form %q", comment, "kernel: NAME Struct")
				}
				p.bindings = append(p.bindings, binding{m[1], m[2]})
				continue
			}
			doc = append(doc, comment)
		case structLine.MatchString(line):
			open = &decl{name: structLine.FindStringSubmatch(line)[1], doc: doc, align: 1}
			doc = nil
		case constantLine.MatchString(line):
			m := constantLine.FindStringSubmatch(line)
			c := &decl{name: m[2], doc: doc, constant: true, typ: m[1], value: m[3]}
			if m[4] != "" {
				c.doc = append(c.doc, m[4])
			}
			doc = nil
			if err := c.checkValue(); err != nil {
				return nil, fail("%v", err)
			}
			if err := p.add(c); err != nil {
				return nil, fail("%v", err)
			}
		default:
			return nil, fail("%q is neither a comment, a struct of plain fields nor a constant (see kernels/README.md)", line)
		}
	}
	if open != nil {
		return nil, fmt.Errorf("params.h: struct %s does not end", open.name)
	}
	for i, b := range p.bindings {
		if d := p.byName[b.structName]; d == nil || d.constant {
			return nil, fmt.Errorf("params.h: kernel: %s names the struct %s, which is not there", b.pattern, b.structName)
		}
		for _, other := range p.bindings[:i] {
			if b.pattern == other.pattern {
				return nil, fmt.Errorf("params.h: kernel: %s stands there twice", b.pattern)
			}
		}
	}
	return p, nil
}

func (p *params) add(d *decl) error {
	goName := d.goName()
	for _, other := range p.decls {
		if other.goName() == goName {
			return fmt.Errorf("%s and %s are both %s in Go", other.name, d.name, goName)
		}
	}
	p.decls = append(p.decls, d)
	p.byName[d.name] = d
	return nil
}

func (p *params) addField(d *decl, line string) error {
	m := fieldLine.FindStringSubmatch(line)
	if m == nil {
		return fmt.Errorf("%q is not one field of the form TYPE NAME[N];", line)
	}
	elem, pointer, name, dims, comment := m[1], m[2] != "", m[3], m[4], m[5]
	f := field{name: name, comment: comment, elem: elem, ctype: elem + " "}
	target, known := p.byName[elem]
	scalar, plain := scalars[elem]
	isStruct := known && !target.constant
	switch {
	case pointer:
		if elem != "void" && !plain && !isStruct && elem != "__half" && elem != "__nv_bfloat16" {
			return fmt.Errorf("%s points to the unknown type %s", name, elem)
		}
		f.ctype, f.elem, f.size, f.align = elem+" *", "*", 8, 8
	case plain:
		f.size, f.align = scalar.size, scalar.size
	case isStruct:
		f.size, f.align = target.size, target.align
	default:
		return fmt.Errorf("%s has the unknown type %s", name, elem)
	}
	if strings.HasPrefix(line, "const ") {
		if !pointer {
			return fmt.Errorf("%s: a field that is no pointer is not const", name)
		}
		f.ctype = "const " + f.ctype
	}
	for _, digits := range dimension.FindAllString(dims, -1) {
		n, err := strconv.Atoi(digits)
		if err != nil || n == 0 || n > maxParams || n*f.size > maxParams {
			return fmt.Errorf("%s has %s elements", name, digits)
		}
		f.dims = append(f.dims, n)
		f.size *= n
	}
	for _, other := range d.fields {
		if goField(other.name) == goField(name) {
			return fmt.Errorf("%s and %s are both %s in Go", other.name, name, goField(name))
		}
	}
	f.offset = roundUp(d.end(), f.align)
	d.align = max(d.align, f.align)
	d.fields = append(d.fields, f)
	return nil
}

// end is the offset behind the last field.
func (d *decl) end() int {
	if len(d.fields) == 0 {
		return 0
	}
	last := d.fields[len(d.fields)-1]
	return last.offset + last.size
}

// checkValue reports a constant that does not fit its type.
func (d *decl) checkValue() error {
	bits := scalars[d.typ].size * 8
	var err error
	if strings.HasPrefix(d.typ, "u") {
		_, err = strconv.ParseUint(d.value, 0, bits)
	} else {
		_, err = strconv.ParseInt(d.value, 0, bits)
	}
	if err != nil || len(d.value) > 1 && d.value[0] == '0' && d.value[1] != 'x' {
		return fmt.Errorf("%s = %s is not a decimal or hexadecimal %s", d.name, d.value, d.typ)
	}
	return nil
}

// bind returns the struct that params.h says the kernel takes.
func (p *params) bind(kernel string) (*decl, error) {
	var found *binding
	for i, b := range p.bindings {
		if !b.matches(kernel) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("params.h: the kernel %s matches %q and %q", kernel, found.pattern, b.pattern)
		}
		found = &p.bindings[i]
	}
	if found == nil {
		return nil, fmt.Errorf("params.h has no line %q", "// kernel: "+kernel+" Struct")
	}
	return p.byName[found.structName], nil
}

var identifier = regexp.MustCompile(`[A-Za-z_]\w*`)

// need returns the declarations that the texts name, and those that they need in
// turn, in the order of params.h.
func (p *params) need(texts ...string) []*decl {
	wanted := map[*decl]bool{}
	var want func(name string)
	want = func(name string) {
		d := p.byName[name]
		if d == nil || wanted[d] {
			return
		}
		wanted[d] = true
		for _, f := range d.fields {
			for _, word := range identifier.FindAllString(f.ctype, -1) {
				want(word)
			}
		}
	}
	for _, text := range texts {
		for _, word := range identifier.FindAllString(text, -1) {
			want(word)
		}
	}
	var out []*decl
	for _, d := range p.decls {
		if wanted[d] {
			out = append(out, d)
		}
	}
	return out
}

// roundUp is n rounded up to a multiple of align.
func roundUp(n, align int) int { return (n + align - 1) / align * align }
