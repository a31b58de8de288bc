package engine

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/device/cuda"
	"kigo/engine/device/cuda/driver"
)

// DeviceOptions say what to compute on.
type DeviceOptions struct {
	Name      string // "auto" or "", "cpu", "cuda", "cuda:1"
	Threads   int    // of the CPU; 0: all cores
	Reference bool   // float32 weights and float64 sums on the CPU: slow, the oracle
	Checks    bool   // on a GPU: wait after every launch, name the kernel that fails, look for NaNs
}

// OpenDevice opens the device. With "auto" that is the first GPU if there is
// one, and why then says why it is not: no driver, no GPU, one that is too old.
// The caller closes the device.
func OpenDevice(o DeviceOptions) (d device.Device, why error, err error) {
	name, number, numbered := strings.Cut(o.Name, ":")
	switch {
	case o.Name == "cpu", o.Name == "" && o.Reference, o.Name == "auto" && o.Reference:
		d, err = cpu.New(cpu.Config{Threads: o.Threads, Reference: o.Reference})
		return d, nil, err
	case o.Reference:
		return nil, nil, fmt.Errorf("device %.32q: the reference path runs on the CPU", o.Name)
	case o.Name == "" || o.Name == "auto":
		gpu, err := cuda.New(cuda.Config{Checks: o.Checks})
		if err == nil {
			return gpu, nil, nil
		}
		if !unusable(err) {
			return nil, nil, err // there is a GPU and it fails: not to be passed over in silence
		}
		d, cpuErr := cpu.New(cpu.Config{Threads: o.Threads})
		return d, err, cpuErr
	case name == "cuda":
		ordinal := 0
		if numbered {
			if ordinal, err = strconv.Atoi(number); err != nil || ordinal < 0 {
				return nil, nil, fmt.Errorf("device %.32q: want cuda:N with N from 0 on", o.Name)
			}
		}
		gpu, err := cuda.New(cuda.Config{Ordinal: ordinal, Checks: o.Checks})
		if err != nil {
			return nil, nil, err
		}
		return gpu, nil, nil
	}
	return nil, nil, fmt.Errorf("device %.32q: want auto, cpu, cuda or cuda:N", o.Name)
}

// unusable says that there is no GPU to use, as opposed to one that fails.
func unusable(err error) bool {
	return errors.Is(err, driver.ErrNoDriver) || errors.Is(err, driver.ErrNoDevice) ||
		errors.Is(err, driver.ErrDriverTooOld) || errors.Is(err, device.ErrNotSupported)
}
