//go:build !amd64

package device

func hashVector([]byte, uint64) (sum uint64, done int) { return 0, 0 }
