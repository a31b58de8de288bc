//go:build !amd64 && !arm64

package cpu

func paths() []*path { return []*path{scalarPath} }

// pause waits for a few processor cycles, n times.
func pause(n int) {
	for range n * 16 {
	}
}
