package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// readImage lists the kernels of machine code by name: what is there, not what
// the source seems to say, so that kernels made by macros are found as well.
func readImage(image []byte, ptx bool) ([]kernelEntry, error) {
	var kernels []kernelEntry
	var err error
	if ptx {
		kernels, err = readPTX(image)
	} else {
		kernels, err = readCubin(image)
	}
	slices.SortFunc(kernels, func(a, b kernelEntry) int { return strings.Compare(a.name, b.name) })
	return kernels, err
}

// Attributes of a section .nv.info.KERNEL: one byte of format, one that says
// which, and 16 bits that are the value or, in format 4, the size of what follows.
const (
	infoSized     = 4
	infoParamSize = 0x19 // the value: bytes of all parameters
	infoParam     = 0x17 // one parameter
)

// readCubin reads the symbols and sections of an ELF file. Its code for a kernel
// NAME is the section .text.NAME; the kernels are the global functions.
func readCubin(image []byte) ([]kernelEntry, error) {
	if len(image) < 24 {
		return nil, errors.New("cubin: too short")
	}
	// NVIDIA counts versions of its own in e_version; debug/elf knows 1 only.
	image = bytes.Clone(image)
	binary.LittleEndian.PutUint32(image[20:], uint32(elf.EV_CURRENT))
	file, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return nil, fmt.Errorf("cubin: %w", err)
	}
	symbols, err := file.Symbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, fmt.Errorf("cubin: %w", err)
	}
	var kernels []kernelEntry
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) != elf.STT_FUNC || elf.ST_BIND(s.Info) != elf.STB_GLOBAL || s.Section == elf.SHN_UNDEF {
			continue
		}
		text, info := file.Section(".text."+s.Name), file.Section(".nv.info."+s.Name)
		if text == nil || info == nil {
			continue // a device function that was not inlined
		}
		k := kernelEntry{name: s.Name, code: int(s.Size)}
		data, err := info.Data()
		if err != nil {
			return nil, fmt.Errorf("cubin: %s: %w", info.Name, err)
		}
		count := 0
		for len(data) >= 4 {
			value := binary.LittleEndian.Uint16(data[2:])
			switch {
			case data[1] == infoParam:
				count++
			case data[1] == infoParamSize && data[0] != infoSized:
				k.params = int(value)
			}
			size := 4
			if data[0] == infoSized {
				size += int(value)
			}
			if size > len(data) {
				return nil, fmt.Errorf("cubin: %s ends early", info.Name)
			}
			data = data[size:]
		}
		if count != 1 {
			return nil, fmt.Errorf("the kernel %s takes %d parameters where one struct is wanted", s.Name, count)
		}
		kernels = append(kernels, k)
	}
	return kernels, nil
}

var (
	ptxEntry = regexp.MustCompile(`(?s)\.entry\s+(\w+)\s*\(([^)]*)\)`)
	ptxParam = regexp.MustCompile(`\.param\s+\.align\s+\d+\s+\.b8\s+\w+\[(\d+)\]`)
)

func readPTX(image []byte) ([]kernelEntry, error) {
	var kernels []kernelEntry
	for _, m := range ptxEntry.FindAllSubmatch(image, -1) {
		name := string(m[1])
		params := ptxParam.FindAllSubmatch(m[2], -1)
		if len(params) != 1 || bytes.Count(m[2], []byte(".param")) != 1 {
			return nil, fmt.Errorf("the kernel %s does not take one struct: (%s)", name, bytes.TrimSpace(m[2]))
		}
		size, err := strconv.Atoi(string(params[0][1]))
		if err != nil {
			return nil, fmt.Errorf("PTX of %s: %w", name, err)
		}
		kernels = append(kernels, kernelEntry{name: name, params: size})
	}
	return kernels, nil
}

var (
	usageName  = regexp.MustCompile(`^ptxas info\s+: Compiling entry function '(\w+)'`)
	usageStack = regexp.MustCompile(`(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads`)
	usageRegs  = regexp.MustCompile(`Used (\d+) registers`)
	usageSmem  = regexp.MustCompile(`(\d+) bytes smem`)
)

// readUsage adds to the kernels what the assembler said of them in its log, and
// returns the rest of the log: warnings, usually nothing.
func readUsage(log string, kernels []kernelEntry) (rest string, err error) {
	var at *kernelEntry
	seen := 0
	var other []string
	for line := range strings.SplitSeq(strings.TrimRight(log, "\x00"), "\n") {
		number := func(m []string, i int) int {
			n, convErr := strconv.Atoi(m[i])
			err = errors.Join(err, convErr)
			return n
		}
		if m := usageName.FindStringSubmatch(line); m != nil {
			i := slices.IndexFunc(kernels, func(k kernelEntry) bool { return k.name == m[1] })
			if i < 0 {
				return "", fmt.Errorf("the assembler speaks of a kernel %s that the image does not hold", m[1])
			}
			at = &kernels[i]
			seen++
			continue
		}
		m := usageStack.FindStringSubmatch(line)
		switch {
		case m != nil && at != nil:
			// Functions that were not inlined add to the kernel they are listed with.
			at.stack += number(m, 1)
			at.spills += number(m, 2)
		case strings.Contains(line, "Performance Loss"):
			other = append(other, line)
		case strings.HasPrefix(line, "ptxas info"):
			if m := usageRegs.FindStringSubmatch(line); m != nil && at != nil {
				at.registers = number(m, 1)
				if m := usageSmem.FindStringSubmatch(line); m != nil {
					at.shared = number(m, 1)
				}
			}
		case strings.HasPrefix(line, "ptxas   "):
		case strings.TrimSpace(line) != "":
			other = append(other, line)
		}
	}
	if err == nil && seen != len(kernels) {
		err = fmt.Errorf("the assembler speaks of %d kernels, the image holds %d", seen, len(kernels))
	}
	return strings.Join(other, "\n"), err
}
