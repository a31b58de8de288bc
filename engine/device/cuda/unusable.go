package cuda

import (
	"errors"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
)

// Unusable says that New's error means that there is no GPU to use: no driver, no
// GPU, or one that is too old. Any other error is that of a GPU which fails.
func Unusable(err error) bool {
	return errors.Is(err, driver.ErrNoDriver) || errors.Is(err, driver.ErrNoDevice) ||
		errors.Is(err, driver.ErrDriverTooOld) || errors.Is(err, device.ErrNotSupported)
}
