//go:build !nocuda && !(linux && (amd64 || arm64))

package driver

import (
	"fmt"
	"runtime"
)

// Open says that there is no CUDA for this system.
func Open() (Driver, error) {
	return nil, fmt.Errorf("%w: CUDA is used on Linux on amd64 and arm64 only, and this is %s on %s", ErrNoDriver, runtime.GOOS, runtime.GOARCH)
}
