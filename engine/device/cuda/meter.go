package cuda

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// What is copied to find a rate: far more than the second-level cache holds, in
// the device's memory, and enough for a transfer to be at its full speed.
const (
	mostCopied    = 1 << 30
	leastCopied   = 1 << 20
	mostUploaded  = 64 << 20
	leastUploaded = 1 << 20
)

// meterPasses is how often each measurement is made; the first is not counted.
const meterPasses = 10

// CopyRate copies between two places in the device's memory; bytes read and bytes
// written both count.
func (d *Device) CopyRate(ctx context.Context) (_ device.Rate, err error) {
	unbind, err := d.bind()
	if err != nil {
		return device.Rate{}, err
	}
	defer unbind()
	n, err := d.roomFor(mostCopied, leastCopied)
	if err != nil {
		return device.Rate{}, err
	}
	var places [2]buffer
	for i := range places {
		if places[i], err = d.allocate(n, "memory to measure with"); err != nil {
			return device.Rate{}, err
		}
		defer func() { err = errors.Join(err, d.release(&places[i])) }()
	}
	took, err := d.shortest(ctx, func(s driver.Stream) error {
		return d.drv.CopyOnDevice(places[1].ptr, places[0].ptr, n, s)
	})
	return d.rate(2*float64(n), took, "copy on the device, bytes read and written"), err
}

// UploadRate copies from pinned memory of the host.
func (d *Device) UploadRate(ctx context.Context) (_ device.Rate, err error) {
	unbind, err := d.bind()
	if err != nil {
		return device.Rate{}, err
	}
	defer unbind()
	n, err := d.roomFor(mostUploaded, leastUploaded)
	if err != nil {
		return device.Rate{}, err
	}
	to, err := d.allocate(n, "memory to measure with")
	if err != nil {
		return device.Rate{}, err
	}
	defer func() { err = errors.Join(err, d.release(&to)) }()
	from, err := d.drv.HostAlloc(int(n))
	if err != nil {
		return device.Rate{}, d.wrap(err, "pinned memory to measure with")
	}
	defer func() { err = errors.Join(err, d.drv.HostFree(from)) }()
	took, err := d.shortest(ctx, func(s driver.Stream) error { return d.drv.CopyToDevice(to.ptr, from, s) })
	return d.rate(float64(n), took, "copy from pinned memory of the host"), err
}

// rateFamily is the machine code that measures. It is loaded when it is wanted, so
// that a start does not pay for it.
const (
	rateFamily  = "rate"
	rateThreads = 256
)

// instruction is one that kernels multiply with, and its measurement (see
// kernels/rate.cu), which takes an H100 some milliseconds.
type instruction struct {
	kernel  string
	name    string
	threads int // that execute it together
	round   int // of them in a round
	rounds  uint32
	flops   int // of one
}

// instructions is the table of what is measured, where the GPU has it. It is never
// written.
var instructions = [...]instruction{
	{"rate_mma", "mma.sync.m16n8k16", 32, int(kernels.RateMmas), 1 << 15, 2 * 16 * 8 * 16},
	{"rate_wgmma", "wgmma.m64n128k16", 128, int(kernels.RateWgmmas), 1 << 12, 2 * 64 * 128 * 16},
}

// MatrixRate keeps all tensor cores busy with each of the instructions that the
// kernels multiply with, and takes the fastest.
func (d *Device) MatrixRate(ctx context.Context) (best device.Rate, err error) {
	unbind, err := d.bind()
	if err != nil {
		return device.Rate{}, err
	}
	defer unbind()
	code, err := loadFamilies(d.drv, d.props, []string{rateFamily})
	if err != nil {
		return device.Rate{}, d.wrap(err, "load the kernels that measure")
	}
	defer func() { err = errors.Join(err, code.unload(d.drv)) }()
	for _, i := range instructions {
		k := code.kernels[i.kernel]
		if k == nil {
			continue
		}
		r, err := d.instructionRate(ctx, k, i)
		if err != nil {
			return device.Rate{}, err
		}
		if r.PerSecond > best.PerSecond {
			best = r
		}
	}
	return best, nil
}

// instructionRate runs one on all multiprocessors. The context must be bound.
func (d *Device) instructionRate(ctx context.Context, k *kernel, i instruction) (_ device.Rate, err error) {
	perSM, err := d.drv.Occupancy(k.fn, rateThreads, 0)
	if err != nil {
		return device.Rate{}, d.wrap(err, "kernel %s", k.name)
	}
	blocks := perSM * d.props.SMs
	if blocks < 1 {
		return device.Rate{}, fmt.Errorf("%w: kernel %s does not fit on the %s", device.ErrNotSupported, k.name, d.props.Name)
	}
	out, err := d.allocate(uint64(4*rateThreads*blocks), "memory to measure with")
	if err != nil {
		return device.Rate{}, err
	}
	defer func() { err = errors.Join(err, d.release(&out)) }()
	l := &launch[kernels.RateParams]{
		kernel: k,
		how:    driver.Launch{Grid: [3]uint32{uint32(blocks), 1, 1}, Block: [3]uint32{rateThreads, 1, 1}},
		params: kernels.RateParams{Out: kernels.Ptr(out.ptr), Rounds: i.rounds},
	}
	took, err := d.shortest(ctx, func(s driver.Stream) error { return start(d, l, s) })
	flops := float64(blocks) * float64(rateThreads/i.threads*i.round*i.flops) * float64(i.rounds)
	return d.rate(flops, took, i.name+", float16 to float32, nothing fetched"), err
}

// roomFor is how many bytes to measure with, given what is free.
func (d *Device) roomFor(most, least uint64) (uint64, error) {
	free, _, err := d.drv.MemInfo()
	if err != nil {
		return 0, d.wrap(err, "measure")
	}
	n := min(most, free/4) &^ 4095
	if n < least {
		return 0, fmt.Errorf("%w to measure with: %d bytes are free", device.ErrOutOfMemory, free)
	}
	return n, nil
}

// shortest times work on a stream of its own by events.
func (d *Device) shortest(ctx context.Context, work func(s driver.Stream) error) (best time.Duration, err error) {
	s, err := d.drv.NewStream()
	if err != nil {
		return 0, d.wrap(err, "measure")
	}
	defer func() { err = errors.Join(err, d.drv.DestroyStream(s)) }()
	var events [2]driver.Event
	for i := range events {
		if events[i], err = d.drv.NewEvent(true); err != nil {
			return 0, d.wrap(err, "measure")
		}
		defer func() { err = errors.Join(err, d.drv.DestroyEvent(events[i])) }()
	}
	for pass := range meterPasses + 1 {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := d.drv.Record(events[0], s); err != nil {
			return 0, d.wrap(err, "measure")
		}
		if err := work(s); err != nil {
			return 0, d.wrap(err, "measure")
		}
		if err := errors.Join(d.drv.Record(events[1], s), d.drv.SyncStream(s)); err != nil {
			return 0, d.wrap(err, "measure")
		}
		took, err := d.drv.Elapsed(events[0], events[1])
		if err != nil {
			return 0, d.wrap(err, "measure")
		}
		if pass > 0 && (best == 0 || took < best) {
			best = took
		}
	}
	return best, nil
}

func (d *Device) rate(n float64, took time.Duration, method string) device.Rate {
	if took <= 0 {
		return device.Rate{}
	}
	return device.Rate{PerSecond: n / took.Seconds(), Method: method}
}
