package cpu

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machineMemory reads total and available memory in bytes; 0 when unknown.
func machineMemory() (total, free uint64) {
	eachLine("/proc/meminfo", func(key, value string) bool {
		kib, err := strconv.ParseUint(strings.TrimSuffix(value, " kB"), 10, 54)
		if err != nil {
			return true
		}
		switch key {
		case "MemTotal":
			total = kib << 10
		case "MemAvailable":
			free = kib << 10
			return false
		}
		return true
	})
	return total, free
}

func processorName() string {
	name := "cpu"
	eachLine("/proc/cpuinfo", func(key, value string) bool {
		if key == "model name" {
			name = value
			return false
		}
		return true
	})
	return name
}

// eachLine calls use for every "key: value" line until it returns false.
func eachLine(path string, use func(key, value string) bool) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, ok := strings.Cut(lines.Text(), ":")
		if ok && !use(strings.TrimSpace(key), strings.TrimSpace(value)) {
			return
		}
	}
}

// wantHugePages asks for large pages, which are fewer to fault in and to look
// up. For memory that is filled anyway: the smallest piece is then 2 MiB.
func (m *memory) wantHugePages() {
	if len(m.bytes) > 0 {
		_ = unix.Madvise(m.bytes, unix.MADV_HUGEPAGE) // a wish: without it all works, slower
	}
}
