package device

import "golang.org/x/sys/cpu"

// vectors says whether sumLines may be called.
var vectors = cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX2

//go:noescape
func sumLines(p *byte, n int, index uint64) uint64
