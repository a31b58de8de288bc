package cuda

import (
	"encoding/binary"
	"fmt"
	"math"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
)

// Begin performs a step and waits for it; of the logits only the ranks of the
// largest come to the host.
func (x *executable) Begin(step *device.Step) error {
	shape, unbind, err := x.perform(step)
	if err != nil {
		return err
	}
	defer unbind()
	x.shape = shape
	d := x.dev
	if n := min(shape.logits, logitRows); n > 0 && x.last.product != nil {
		if err := d.drv.CopyToHost(x.ranks[:8*n], driver.Ptr(x.best), d.stream); err != nil {
			return d.wrap(err, "fetch the largest logits")
		}
	}
	return d.wrap(d.drv.SyncStream(d.stream), "step of %d rows", shape.rows)
}

// Largest reads what Begin has brought; see ranked in kernels/project.cuh.
func (x *executable) Largest(i int) (id int32, logit float32, err error) {
	if i < 0 || i >= x.shape.logits {
		return 0, 0, fmt.Errorf("logits of row %d of %d", i, x.shape.logits)
	}
	if i >= logitRows || x.last.product == nil {
		return x.search(i)
	}
	rank := binary.LittleEndian.Uint64(x.ranks[8*i:])
	bits := uint32(rank >> 32)
	if bits&(1<<31) != 0 {
		bits &^= 1 << 31
	} else {
		bits = ^bits
	}
	return int32(^uint32(rank)), math.Float32frombits(bits), nil
}

// search finds the largest logit on the host.
func (x *executable) search(i int) (id int32, logit float32, err error) {
	all, err := x.Fetch()
	if err != nil {
		return 0, 0, err
	}
	row := all[i*x.prog.Vocab : (i+1)*x.prog.Vocab]
	for j, v := range row {
		if v > row[id] {
			id = int32(j)
		}
	}
	return id, row[id], nil
}

// Fetch brings the logits of the last step to the host.
func (x *executable) Fetch() ([]float32, error) {
	if x.closed || x.cache.closed.Load() || x.ws.closed.Load() {
		return nil, fmt.Errorf("fetch: %w", device.ErrClosed)
	}
	unbind, err := x.dev.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	if err := x.last.fetch(x, &x.shape); err != nil {
		return nil, err
	}
	return x.result, nil
}
