// Package cpu is the device that every machine has. It plays two roles: it
// serves, multiplying quantized weights by activations quantized to 16 bits,
// and it is the reference, which dequantizes every weight and sums in float64:
// slow, and the oracle that others are measured against. What serves does so on
// one of several paths: vector instructions of a kind of processor, or plain
// Go; all of them give the same bits (see path). The reference shares
// everything else with them.
package cpu

import (
	"fmt"
	"runtime"
	"sync"

	"kigo/engine/device"
)

// Config chooses a CPU device.
type Config struct {
	Threads   int  // 0 means all cores that the process may use
	Reference bool // float64 sums on dequantized weights

	// Path forces what to compute with: one of Paths. Empty means what the
	// environment's KIGO_CPU says, or else the fastest.
	Path string
}

// Device implements device.Device.
type Device struct {
	cfg     Config
	name    string // the processor's
	limit   uint64 // bytes of memory that the process may have; 0: all
	path    *path
	workers *workers
	close   sync.Once
}

// New starts a device's worker goroutines, which end with Close.
func New(cfg Config) (*Device, error) {
	if cfg.Threads < 0 || cfg.Threads > 1024 {
		return nil, fmt.Errorf("threads: %d, want 0 (all cores) to 1024", cfg.Threads)
	}
	if cfg.Threads == 0 {
		cfg.Threads = runtime.GOMAXPROCS(0)
	}
	p := referencePath
	if !cfg.Reference {
		var err error
		if p, err = choosePath(cfg.Path); err != nil {
			return nil, err
		}
	}
	return &Device{cfg: cfg, name: processorName(), limit: memoryLimit(), path: p, workers: startWorkers(cfg.Threads)}, nil
}

// stepRows is small: on a CPU rows cost nearly the same in any company.
const stepRows = 16

// within is memory in all and free where the process may have less than the machine
// has, and has used bytes of it already.
func within(limit, used, total, free uint64) (uint64, uint64) {
	left := uint64(0)
	if used < limit {
		left = limit - used
	}
	if total == 0 {
		return limit, left
	}
	return min(total, limit), min(free, left)
}

// Info describes the processor, with what is used of it, and the machine's
// memory, or what the process's control group may have of it.
func (d *Device) Info() device.Info {
	total, free := machineMemory()
	if d.limit > 0 {
		total, free = within(d.limit, residentMemory(), total, free)
	}
	return device.Info{
		Kind: "cpu", Name: d.name + " (" + d.path.name + ")", Threads: d.cfg.Threads,
		MemoryTotal: total, MemoryFree: free, StepRows: stepRows,
	}
}

// Close ends the worker goroutines.
func (d *Device) Close() error {
	d.close.Do(d.workers.stop)
	return nil
}
