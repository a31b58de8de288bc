package cuda

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// driverVersion names the driver: its own version where the kernel module tells
// it, and the newest CUDA that it knows.
func driverVersion(cuda int) string {
	name := fmt.Sprintf("CUDA %d.%d", cuda/1000, cuda%1000/10)
	if module := moduleVersion("/sys/module/nvidia/version"); module != "" {
		name = module + ", " + name
	}
	return name
}

// moduleVersion reads a version like 580.95.05; "" for anything else.
func moduleVersion(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64))
	version := strings.TrimSpace(string(b))
	if err != nil || strings.Trim(version, "0123456789.") != "" {
		return ""
	}
	return version
}
