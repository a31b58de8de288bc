//go:build !linux

package cpu

import "runtime"

func machineMemory() (total, free uint64) { return 0, 0 }

func memoryLimit() uint64 { return 0 }

func residentMemory() uint64 { return 0 }

func processorName() string { return runtime.GOARCH }

func (m *memory) wantHugePages() {}
