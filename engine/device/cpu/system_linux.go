package cpu

import (
	"bufio"
	"os"
	"strconv"
	"strings"

	"github.com/KimMachineGun/automemlimit/memlimit"
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

// memoryLimit is what the process's control group, a container's for example, may
// have at most, in bytes; 0 when nothing limits it.
func memoryLimit() uint64 {
	limit, err := memlimit.FromCgroup()
	if err != nil {
		return 0 // no limit, or none that can be read: the machine's memory it is
	}
	return limit
}

// residentMemory is what the process has at present, in bytes; 0 when unknown.
func residentMemory() (bytes uint64) {
	eachLine("/proc/self/status", func(key, value string) bool {
		if key != "VmRSS" {
			return true
		}
		if kib, err := strconv.ParseUint(strings.TrimSuffix(value, " kB"), 10, 54); err == nil {
			bytes = kib << 10
		}
		return false
	})
	return bytes
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
