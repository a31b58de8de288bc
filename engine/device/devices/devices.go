// Package devices opens a device by its name.
package devices

import (
	"fmt"
	"strconv"
	"strings"

	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/device/cuda"
)

// Options say what to compute on.
type Options struct {
	Name      string // "auto" or "", "cpu", "cuda", "cuda:1"
	Threads   int    // of the CPU; 0: all cores
	Reference bool   // float32 weights and float64 sums on the CPU: slow, the oracle
	Checks    bool   // on a GPU: wait after every launch, name the kernel that fails, look for NaNs
}

// Open opens the device. With "auto" that is the first GPU if there is one, and
// why then says why it is not: no driver, no GPU, one that is too old. The
// caller closes the device.
func Open(o Options) (d device.Device, why error, err error) {
	name, number, numbered := strings.Cut(o.Name, ":")
	switch {
	case o.Name == "cpu", o.Name == "" && o.Reference, o.Name == "auto" && o.Reference:
		return openCPU(o, nil)
	case o.Reference:
		return nil, nil, fmt.Errorf("device %.32q: the reference path runs on the CPU", o.Name)
	case o.Name == "" || o.Name == "auto":
		gpu, err := cuda.New(cuda.Config{Checks: o.Checks})
		if err == nil {
			return gpu, nil, nil
		}
		if !cuda.Unusable(err) {
			return nil, nil, err // there is a GPU and it fails: not to be passed over in silence
		}
		return openCPU(o, err)
	case name == "cuda":
		ordinal := 0
		if numbered {
			if ordinal, err = strconv.Atoi(number); err != nil || ordinal < 0 {
				return nil, nil, fmt.Errorf("device %.32q: want cuda:N with N from 0 on", o.Name)
			}
		}
		gpu, err := cuda.New(cuda.Config{Ordinal: ordinal, Checks: o.Checks})
		if err != nil && cuda.Unusable(err) {
			return nil, nil, fmt.Errorf("device %.32q: %w", o.Name, absent{err})
		}
		if err != nil {
			return nil, nil, err
		}
		return gpu, nil, nil
	}
	return nil, nil, fmt.Errorf("device %.32q: want auto, cpu, cuda or cuda:N", o.Name)
}

// absent is why there is no GPU to use where one was asked for by name: to
// errors.Is, also a device.ErrGone.
type absent struct{ error }

func (a absent) Unwrap() []error { return []error{a.error, device.ErrGone} }

func openCPU(o Options, why error) (device.Device, error, error) {
	d, err := cpu.New(cpu.Config{Threads: o.Threads, Reference: o.Reference})
	if err != nil {
		return nil, nil, err
	}
	return d, why, nil
}
