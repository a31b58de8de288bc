package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// wgmma reads the registers of its first operand while the warps go on, until they have
// waited for it. The assembler takes them for free once the instruction has been given,
// and has put other values there: sums were off by a few bits, now and then. Nothing
// else shows it than the disassembly, which this file reads.

// registers is a set of a thread's 32-bit registers.
type registers [4]uint64

func (s *registers) add(first, count int) {
	for r := first; r < first+count && r < 256; r++ {
		s[r/64] |= 1 << (r % 64)
	}
}

func (s *registers) meets(other *registers) bool {
	for i := range s {
		if s[i]&other[i] != 0 {
			return true
		}
	}
	return false
}

// mostPending is how many groups of wgmmas may be under way; kernels have two.
const mostPending = 4

// a place in a kernel with what is under way there.
type place struct {
	pc      int
	last    int       // the wgmma that was given last
	open    registers // operands of wgmmas that no group has yet
	pending [mostPending]registers
	groups  int
}

type instruction struct {
	address, text string
	name          string // without modifiers
	op            string // with them
	rest          string // behind it
	conditional   bool
	target        int // of a branch
}

var (
	labelLine = regexp.MustCompile(`^\s*(\.L_x_\d+):`)
	codeLine  = regexp.MustCompile(`^\s*/\*([0-9a-f]+)\*/\s+(@!?U?P\w+\s+)?(\S+)\s*(.*?)\s*;`)
	textLine  = regexp.MustCompile(`^\.text\.(\w+):`)
	aLabel    = regexp.MustCompile("`\\((\\.L_x_\\d+)\\)")
	ofWgmma   = regexp.MustCompile(`^R(\d+), R(\d+),`)
	atMost    = regexp.MustCompile(`gsb0, 0x([0-9a-f]+)`)
	written   = regexp.MustCompile(`^(?:!?U?P(?:\d|T), )?R(\d+)\b`)
	wideOne   = regexp.MustCompile(`\.(64|128|M88\.4)(\.|$)`)
)

// elsewhere are instructions that go to where their text does not say.
var elsewhere = []string{"BRX", "BRXU", "JMP", "JMX", "JMXU", "CALL", "RET", "BREAK"}

// kernelsOf reads what nvdisasm -c prints, kernel by kernel.
func kernelsOf(disassembly string) (map[string][]instruction, error) {
	kernels := map[string][]instruction{}
	labels := map[string]map[string]int{}
	name := ""
	for line := range strings.Lines(disassembly) {
		if m := textLine.FindStringSubmatch(line); m != nil {
			name = m[1]
			kernels[name], labels[name] = nil, map[string]int{}
		} else if m := labelLine.FindStringSubmatch(line); m != nil && name != "" {
			labels[name][m[1]] = len(kernels[name])
		} else if m := codeLine.FindStringSubmatch(line); m != nil && name != "" {
			base, _, _ := strings.Cut(m[3], ".")
			kernels[name] = append(kernels[name], instruction{
				address: m[1], text: strings.TrimSpace(m[2] + m[3] + " " + m[4]),
				name: base, op: m[3], rest: m[4], conditional: m[2] != "",
			})
		}
	}
	for name, code := range kernels {
		for i := range code {
			if code[i].name != "BRA" {
				continue
			}
			m := aLabel.FindStringSubmatch(code[i].rest)
			if m == nil {
				return nil, fmt.Errorf("%s: %s: no label", name, code[i].text)
			}
			at, ok := labels[name][m[1]]
			if !ok {
				return nil, fmt.Errorf("%s: %s: there is no such label", name, code[i].text)
			}
			code[i].target = at
			// Some say their condition behind the name.
			code[i].conditional = code[i].conditional || !strings.HasPrefix(code[i].rest, "`")
		}
	}
	return kernels, nil
}

// writes is what an instruction writes.
func (i *instruction) writes() (r registers) {
	switch i.name {
	case "ST", "STG", "STS", "STL", "RED", "BAR", "SYNCS", "WARPGROUP", "WARPSYNC", "BSSY", "BSYNC", "NOP", "MEMBAR", "ISETP", "FSETP", "R2UR", "UBLKCP", "ELECT":
		return r // nothing, or what the first operand says is read
	}
	m := written.FindStringSubmatch(i.rest)
	if m == nil {
		return r
	}
	first, err := strconv.Atoi(m[1])
	if err != nil {
		return r
	}
	count := 1
	switch w := wideOne.FindStringSubmatch(i.op); {
	case w != nil && w[1] == "64":
		count = 2
	case w != nil:
		count = 4
	case strings.HasPrefix(i.op, "IMAD.WIDE"), i.op == "CS2R":
		count = 2
	}
	r.add(first, count)
	return r
}

// overwritten lists the instructions of a kernel that write to operands of a wgmma that
// may be under way, and those with which the search ends, because it cannot tell what
// comes behind them. All other ways through the code are followed, but for one kind:
// those that leave some of a loop's wgmmas out and go round once more. Kernels leave a
// turn's rest out at the end alone.
func overwritten(code []instruction) []string {
	found := map[string]bool{}
	report := func(in *instruction, why string) { found[in.address+": "+in.text+why] = true }
	begin := place{last: -1}
	seen := map[place]bool{begin: true}
	for ways := []place{begin}; len(ways) > 0; {
		at := ways[len(ways)-1]
		ways = ways[:len(ways)-1]
		if at.pc >= len(code) {
			continue
		}
		in := &code[at.pc]
		next := at
		next.pc++
		follow := func(p place) {
			if !seen[p] {
				seen[p] = true
				ways = append(ways, p)
			}
		}
		switch {
		case in.name == "HGMMA":
			if m := ofWgmma.FindStringSubmatch(in.rest); m != nil {
				first, _ := strconv.Atoi(m[2])
				next.open.add(first, 4)
			}
			if strings.Contains(in.rest, "gsb0") {
				if next.groups == mostPending {
					report(in, " (more groups than are followed)")
					continue
				}
				next.pending[next.groups] = next.open
				next.groups++
				next.open = registers{}
			}
			next.last = at.pc
			follow(next)
		case in.op == "WARPGROUP.DEPBAR.LE":
			left := 0
			if m := atMost.FindStringSubmatch(in.rest); m != nil {
				n, _ := strconv.ParseInt(m[1], 16, 32)
				left = int(n)
			}
			if drop := next.groups - left; drop > 0 {
				copy(next.pending[:], next.pending[drop:])
				clear(next.pending[left:])
				next.groups = left
			}
			follow(next)
		case in.name == "BRA":
			if in.conditional {
				follow(next)
			}
			if in.target > at.pc || !skipped(code, max(at.last, in.target-1), at.pc) {
				next.pc = in.target
				follow(next)
			}
		case in.name == "EXIT":
			if in.conditional {
				follow(next)
			}
		case slices.Contains(elsewhere, in.name):
			report(in, " (where to?)")
		default:
			w := in.writes()
			hit := w.meets(&at.open)
			for i := range at.groups {
				hit = hit || w.meets(&at.pending[i])
			}
			if hit {
				report(in, "")
			}
			follow(next)
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// skipped says whether there is a wgmma between two places.
func skipped(code []instruction, after, before int) bool {
	for i := after + 1; i < before; i++ {
		if code[i].name == "HGMMA" {
			return true
		}
	}
	return false
}
