//go:build nocuda

package driver

import "fmt"

// Open says that this binary has no CUDA in it: it is static, and runs where
// there is no dynamic linker.
func Open() (Driver, error) {
	return nil, fmt.Errorf("%w: built without CUDA (build tag nocuda)", ErrNoDriver)
}
