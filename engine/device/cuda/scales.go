package cuda

import (
	"math"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// number is one of the half-precision numbers at the head of a format's blocks: where
// it is, and how large a scale the block can have by it.
type number struct {
	at    int
	times float32
}

// subnormal is what scales have besides: kernels/formats.cuh reads integers as
// subnormal halves.
const subnormal = 1 << 24

// Minima are not multiplied with subnormal halves, and two of them must not be too
// large for one.
const minimum = 2. / subnormal

// The largest half.
const largestHalf = 65504

// scaleUp is the power of two that makes the most of float16 for scales of at most so
// much.
func scaleUp(most float32) float32 {
	if most == 0 {
		return subnormal
	}
	_, exp := math.Frexp(largestHalf / float64(most))
	return float32(math.Ldexp(1, exp-1))
}

// findScales finds out how large the scales of the matrices are that products take, and
// so what to multiply them with. Their bytes are all there.
func (x *executable) findScales() error {
	d := x.dev
	if err := d.drv.Fill8(driver.Ptr(x.largest), 0, uint64(4*len(x.ups)), d.stream); err != nil {
		return d.wrap(err, "look for the largest scales")
	}
	const threads = 256
	for id := range x.ups {
		p := &x.ws.places[id]
		if !x.multiplied[device.TensorID(id)] || p.scheme == nil || p.scheme.scales == nil {
			continue
		}
		params := kernels.LargestScaleParams{Layout: x.ws.layout(id), Out: x.largest + uint64(4*id)}
		for i, n := range p.scheme.scales {
			params.At[i], params.Times[i] = uint32(n.at), n.times
		}
		l, err := newLaunch(d, "largest_scale", threads, params)
		if err != nil {
			return err
		}
		blocks := p.tensor.Rows * p.tensor.Cols / p.tensor.Format.BlockSize
		if err := start(d, l.grid(min(ceilDiv(blocks, threads), 16*d.props.SMs), 1, 1), d.stream); err != nil {
			return d.wrap(err, "look for the largest scale of tensor %q", p.tensor.Name)
		}
	}
	most, err := x.fetch(x.largest, len(x.ups))
	for id, m := range most {
		x.ups[id] = scaleUp(m)
	}
	return err
}
