package device

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

//go:noescape
func hashWords512(p *byte, words int, index uint64) uint64

// hashVector sums up mixed words as far as vectors go, and returns how many bytes
// that was. index is that of the first word, times hashStep.
func hashVector(p []byte, index uint64) (sum uint64, done int) {
	n := len(p) / 128 * 16
	if n == 0 || !cpu.X86.HasAVX512F || !cpu.X86.HasAVX512DQ {
		return 0, 0
	}
	return hashWords512(unsafe.SliceData(p), n, index), n * 8
}
