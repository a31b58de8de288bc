package cuda

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
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
	r := unrank(binary.LittleEndian.Uint64(x.ranks[8*i:]))
	return r.ID, r.Logit, nil
}

// unrank takes apart what ranked in kernels/project.cuh puts together.
func unrank(rank uint64) device.Ranked {
	bits := uint32(rank >> 32)
	if bits&(1<<31) != 0 {
		bits &^= 1 << 31
	} else {
		bits = ^bits
	}
	return device.Ranked{ID: int32(^uint32(rank)), Logit: math.Float32frombits(bits)}
}

// Sizes of kernels/choose.cu: where more logits than topRoom share the leading bits
// of the last one wanted, all of them have to be fetched.
const (
	topBins    = 4096
	topRoom    = 1024
	topMost    = 256
	topHead    = 8 // bytes before the list
	topThreads = 256
)

// Top collects the largest logits on the device and sorts them here.
func (x *executable) Top(i, n int) (top []device.Ranked, ok bool, err error) {
	if i < 0 || i >= x.shape.logits || n < 1 {
		return nil, false, fmt.Errorf("the %d largest logits of row %d of %d", n, i, x.shape.logits)
	}
	if x.closed || x.cache.closed.Load() || x.ws.closed.Load() {
		return nil, false, fmt.Errorf("top: %w", device.ErrClosed)
	}
	if n > topMost || n > x.prog.Vocab || i < x.held || i >= x.held+logitRows {
		return nil, false, nil
	}
	unbind, err := x.dev.bind()
	if err != nil {
		return nil, false, err
	}
	defer unbind()
	found, err := x.collect(i-x.held, n)
	if err != nil || found > topRoom || found < n { // too few: some logits are no numbers
		return nil, false, err
	}
	x.top = x.top[:0]
	ranks := x.topHost[topHead:]
	for j := range found {
		x.top = append(x.top, unrank(binary.LittleEndian.Uint64(ranks[8*j:])))
	}
	slices.SortFunc(x.top, func(a, b device.Ranked) int {
		return cmp.Or(cmp.Compare(b.Logit, a.Logit), cmp.Compare(a.ID, b.ID))
	})
	return x.top[:n], true, nil
}

// collect fills topHost from row i of the logits that are held.
func (x *executable) collect(i, n int) (found int, err error) {
	d := x.dev
	if x.topCount == nil {
		p := kernels.ChooseParams{
			Bins: x.topArea, Found: x.topArea + 4*topBins, List: x.topArea + 4*topBins + topHead,
			Count: uint32(x.prog.Vocab), Room: topRoom,
		}
		if x.topCount, err = newLaunch(d, "choose_count", topThreads, p); err != nil {
			return 0, err
		}
		if x.topCollect, err = newLaunch(d, "choose_collect", topThreads, p); err != nil {
			return 0, err
		}
	}
	if err := d.drv.Fill8(driver.Ptr(x.topArea), 0, 4*topBins+topHead, d.stream); err != nil {
		return 0, d.wrap(err, "rank logits")
	}
	for _, l := range []*launch[kernels.ChooseParams]{x.topCount, x.topCollect} {
		l.params.Logits = x.logits + uint64(4*i*x.prog.Vocab)
		l.params.Wanted = uint32(n)
		if err := start(d, l.grid(min(ceilDiv(x.prog.Vocab, topThreads), d.props.SMs), 1, 1), d.stream); err != nil {
			return 0, err
		}
	}
	if err := d.drv.CopyToHost(x.topHost, driver.Ptr(x.topArea+4*topBins), d.stream); err != nil {
		return 0, d.wrap(err, "rank logits")
	}
	if err := d.drv.SyncStream(d.stream); err != nil {
		return 0, d.wrap(err, "rank logits")
	}
	return int(binary.LittleEndian.Uint32(x.topHost)), nil
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
