package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/ebitengine/purego"
)

// A compiler is NVRTC, loaded from the folder that .make/cuda.py fills. Its
// methods may be called by several goroutines at a time.
type compiler struct {
	include string

	create      func(program *uintptr, source, name *byte, headers int32, texts, names unsafe.Pointer) int32
	compile     func(program uintptr, options int32, texts unsafe.Pointer) int32
	destroy     func(program *uintptr) int32
	errorString func(result int32) string
	logSize     func(program uintptr, size *uintptr) int32
	log         func(program uintptr, text *byte) int32
	cubinSize   func(program uintptr, size *uintptr) int32
	cubin       func(program uintptr, data *byte) int32
	ptxSize     func(program uintptr, size *uintptr) int32
	ptx         func(program uintptr, data *byte) int32
}

// openCompiler loads the library. It stays loaded until the process ends.
func openCompiler(dir string) (*compiler, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	library, err := purego.Dlopen(filepath.Join(dir, "lib", "libnvrtc.so.12"), purego.RTLD_NOW|purego.RTLD_LOCAL)
	if err != nil {
		return nil, fmt.Errorf("the compiler (run .make/cuda.py): %w", err)
	}
	c := &compiler{include: filepath.Join(dir, "include")}
	for name, function := range map[string]any{
		"nvrtcCreateProgram":     &c.create,
		"nvrtcCompileProgram":    &c.compile,
		"nvrtcDestroyProgram":    &c.destroy,
		"nvrtcGetErrorString":    &c.errorString,
		"nvrtcGetProgramLogSize": &c.logSize,
		"nvrtcGetProgramLog":     &c.log,
		"nvrtcGetCUBINSize":      &c.cubinSize,
		"nvrtcGetCUBIN":          &c.cubin,
		"nvrtcGetPTXSize":        &c.ptxSize,
		"nvrtcGetPTX":            &c.ptx,
	} {
		address, err := purego.Dlsym(library, name)
		if err != nil {
			return nil, fmt.Errorf("the compiler: %w", err)
		}
		purego.RegisterFunc(function, address)
	}
	return c, nil
}

// run compiles the first of the files, with the others as headers. It returns the
// machine code and what the compiler and the assembler said; PTX ends with the
// NUL that the driver wants. With check, the source is only read and understood.
func (c *compiler) run(files []source, tg target, check bool) (image []byte, log string, err error) {
	var pinner runtime.Pinner
	defer pinner.Unpin()
	text := func(s string) *byte {
		b := append([]byte(s), 0)
		pinner.Pin(&b[0])
		return &b[0]
	}
	array := func(texts []*byte) unsafe.Pointer {
		if len(texts) == 0 {
			return nil
		}
		pinner.Pin(&texts[0])
		return unsafe.Pointer(&texts[0])
	}
	var texts, names []*byte
	for _, header := range files[1:] {
		texts, names = append(texts, text(header.text)), append(names, text(header.name))
	}
	var program uintptr
	if r := c.create(&program, text(files[0].text), text(files[0].name), int32(len(texts)), array(texts), array(names)); r != 0 {
		return nil, "", fmt.Errorf("nvrtcCreateProgram: %s", c.errorString(r))
	}
	defer func() { c.destroy(&program) }()

	arguments := slices.Concat(options, []string{"--gpu-architecture=" + tg.name, "--include-path=" + c.include})
	if check {
		arguments = append(arguments, "--fdevice-syntax-only")
	} else if !tg.ptx {
		arguments = append(arguments, "--ptxas-options=-v")
	}
	var list []*byte
	for _, a := range arguments {
		list = append(list, text(a))
	}
	result := c.compile(program, int32(len(list)), array(list))

	data, err := fetch(program, c.logSize, c.log)
	if err != nil {
		return nil, "", err
	}
	log = strings.TrimRight(string(data), "\x00\n ")
	if result != 0 {
		return nil, "", fmt.Errorf("%s\n%s", c.errorString(result), log)
	}
	switch {
	case check:
		return nil, log, nil
	case tg.ptx:
		image, err = fetch(program, c.ptxSize, c.ptx)
	default:
		image, err = fetch(program, c.cubinSize, c.cubin)
	}
	return image, log, err
}

// fetch reads one of a program's results: its size, then its bytes.
func fetch(program uintptr, size func(uintptr, *uintptr) int32, read func(uintptr, *byte) int32) ([]byte, error) {
	var n uintptr
	if r := size(program, &n); r != 0 {
		return nil, fmt.Errorf("the compiler gives no result: error %d", r)
	}
	if n == 0 {
		return nil, errors.New("the compiler's result is empty")
	}
	data := make([]byte, n)
	if r := read(program, &data[0]); r != 0 {
		return nil, fmt.Errorf("the compiler gives no result: error %d", r)
	}
	return data, nil
}
