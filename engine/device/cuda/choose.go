package cuda

import (
	"encoding/binary"
	"fmt"
	"math"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// Begin starts a step, and after it the journey of the ranks of its rows' largest
// logits.
func (x *executable) Begin(step *device.Step) error {
	unbind, err := x.perform(step)
	if err != nil {
		return err
	}
	defer unbind()
	if err := x.last.computeRest(x); err != nil {
		return err
	}
	if n := x.shape.logits; n > 0 {
		err = x.dev.drv.CopyToHost(x.choosing.ranks[:8*n], driver.Ptr(x.best), x.dev.stream)
	}
	return x.dev.wrap(err, "fetch the largest logits")
}

// open says whether what was begun can still be asked for.
func (x *executable) open(doing string) error {
	if x.closed || x.cache.closed.Load() || x.ws.closed.Load() {
		return fmt.Errorf("%s: %w", doing, device.ErrClosed)
	}
	return nil
}

// wait is for the end of the step that is under way, if one is. The context must be
// bound.
func (x *executable) wait() error {
	if !x.busy {
		return nil
	}
	x.busy = false
	return x.dev.wrap(x.dev.drv.SyncStream(x.dev.stream), "step of %d rows", x.shape.rows)
}

// ended waits for the step whose results somebody asks for, and binds the context.
func (x *executable) ended(doing string) (unbind func(), err error) {
	if err := x.open(doing); err != nil {
		return nil, err
	}
	if unbind, err = x.dev.bind(); err != nil {
		return nil, err
	}
	if err := x.wait(); err != nil {
		unbind()
		return nil, err
	}
	return unbind, nil
}

// Largest waits, and reads what Begin has brought.
func (x *executable) Largest() ([]device.Ranked, error) {
	unbind, err := x.ended("largest")
	if err != nil {
		return nil, err
	}
	defer unbind()
	c := &x.choosing
	c.largest = c.largest[:0]
	for i := range x.shape.logits {
		c.largest = append(c.largest, unrank(binary.LittleEndian.Uint64(c.ranks[8*i:])))
	}
	return c.largest, nil
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
	topBins     = 4096
	topRoom     = 1024
	topMost     = 256
	topThreads  = 256
	sortThreads = 512

	topCleared = 4 * (topBins + 2) // bytes of a row's bins and count
)

// choosing is what the largest logits of a step's rows are found with.
type choosing struct {
	ranks   []byte // pinned: of the largest logits, by row
	largest []device.Ranked
	search  *launch[kernels.ChooseParams] // for logits that no product has ranked

	// Of kernels/choose.cu, for so many rows in one go.
	room        int
	area        uint64 // which rows and how many, then bins, list and out
	wants       []byte // pinned: which rows and how many of each
	found       []byte // pinned: out
	count       *launch[kernels.ChooseParams]
	collect     *launch[kernels.ChooseParams]
	sort        *launch[kernels.ChooseParams]
	tops        [][]device.Ranked
	memory      []device.Ranked // of tops
	here, place []int           // wants that are dealt with in one go
}

func (c *choosing) layOut(a *arena, rows int) {
	c.room = rows
	n := uint64(rows)
	c.area = a.take(n * (8 + topCleared + 8*topRoom + 8*(1+topMost)))
}

func (c *choosing) takeHost(x *executable) (err error) {
	for _, b := range []struct {
		to    *[]byte
		bytes int
	}{
		{&c.ranks, 8 * x.opt.MaxRows},
		{&c.wants, 8 * c.room},
		{&c.found, 8 * (1 + topMost) * c.room},
	} {
		if *b.to, err = x.dev.drv.HostAlloc(b.bytes); err != nil {
			return x.dev.wrap(err, "memory for logits")
		}
	}
	return nil
}

// searchLargest finds the largest of n rows of logits, which are the step's from row at
// on, where the product that made them does not.
func (c *choosing) searchLargest(x *executable, at, n int) (err error) {
	if c.search == nil {
		if c.search, err = newLaunch(x.dev, "choose_largest", topThreads, kernels.ChooseParams{Logits: x.logits, Count: uint32(x.prog.Vocab)}); err != nil {
			return err
		}
	}
	c.search.params.Out = x.best + uint64(8*at)
	return start(x.dev, c.search.grid(x.sharing(n), n, 1), x.dev.stream)
}

// sharing is how many blocks of kernels/choose.cu share a row of logits of n.
func (x *executable) sharing(n int) int {
	sms := x.dev.props.SMs
	return max(1, min(ceilDiv(x.prog.Vocab, topThreads), sms, ceilDiv(4*sms, n)))
}

// Top ranks the rows' logits on the device.
func (x *executable) Top(wants []device.Want) ([][]device.Ranked, error) {
	for _, w := range wants {
		if w.Row < 0 || w.Row >= x.shape.logits || w.N < 1 {
			return nil, fmt.Errorf("the %d largest logits of row %d of %d", w.N, w.Row, x.shape.logits)
		}
	}
	unbind, err := x.ended("top")
	if err != nil {
		return nil, err
	}
	defer unbind()
	return x.rank(wants)
}

// rank is Top of wants that are in order, with the context bound. It deals with
// those whose logits are held, then with those of the next piece of the step.
func (x *executable) rank(wants []device.Want) ([][]device.Ranked, error) {
	c := &x.choosing
	c.tops, c.memory = c.tops[:0], c.memory[:0]
	room := 0
	for _, w := range wants {
		c.tops = append(c.tops, nil)
		if w.N <= topMost && w.N <= x.prog.Vocab {
			room += w.N
		}
	}
	if cap(c.memory) < room {
		c.memory = make([]device.Ranked, 0, room)
	}
	for _, at := range x.pieces() {
		c.here = c.here[:0]
		for i, w := range wants {
			if w.Row >= at && w.Row < at+x.logitRows && w.N <= topMost && w.N <= x.prog.Vocab {
				c.here = append(c.here, i)
			}
		}
		for len(c.here) > 0 {
			part := c.here[:min(len(c.here), c.room)]
			c.here = c.here[len(part):]
			if err := x.rankHeld(at, wants, part); err != nil {
				return nil, x.dev.wrap(err, "rank logits")
			}
		}
	}
	return c.tops, nil
}

// pieces are where the pieces begin in which the logits of the step are computed;
// the one that is at hand first.
func (x *executable) pieces() []int {
	c := &x.choosing
	c.place = append(c.place[:0], x.held)
	for at := 0; at < x.shape.logits; at += x.logitRows {
		if at != x.held {
			c.place = append(c.place, at)
		}
	}
	return c.place
}

// rankHeld finds the largest logits for some of wants, by their indices, whose rows
// are in the piece that begins at row at.
func (x *executable) rankHeld(at int, wants []device.Want, part []int) error {
	c, d := &x.choosing, x.dev
	if err := x.last.hold(x, at); err != nil {
		return err
	}
	if c.count == nil {
		if err := c.prepare(x); err != nil {
			return err
		}
	}
	n, most := len(part), 0
	numbers := int32s(c.wants)
	for j, i := range part {
		numbers[j], numbers[c.room+j] = int32(wants[i].Row-at), int32(wants[i].N)
		most = max(most, wants[i].N)
	}
	if err := d.drv.CopyToDevice(driver.Ptr(c.area), c.wants, d.stream); err != nil {
		return err
	}
	if err := d.drv.Fill8(driver.Ptr(c.count.params.Bins), 0, uint64(n)*topCleared, d.stream); err != nil {
		return err
	}
	share := x.sharing(n)
	for _, l := range []*launch[kernels.ChooseParams]{c.count.grid(share, n, 1), c.collect.grid(share, n, 1), c.sort.grid(1, n, 1)} {
		l.params.Most = uint32(most)
		if err := start(d, l, d.stream); err != nil {
			return err
		}
	}
	row := 8 * (1 + most)
	if err := d.drv.CopyToHost(c.found[:n*row], driver.Ptr(c.sort.params.Out), d.stream); err != nil {
		return err
	}
	if err := d.drv.SyncStream(d.stream); err != nil {
		return err
	}
	for j, i := range part {
		from := c.found[j*row:]
		found := binary.LittleEndian.Uint64(from)
		if found > topRoom || found < uint64(wants[i].N) { // too few: some logits are no numbers
			continue
		}
		first := len(c.memory)
		for k := range wants[i].N {
			c.memory = append(c.memory, unrank(binary.LittleEndian.Uint64(from[8*(1+k):])))
		}
		c.tops[i] = c.memory[first:len(c.memory):len(c.memory)]
	}
	return nil
}

// prepare makes the launches.
func (c *choosing) prepare(x *executable) (err error) {
	n := uint64(c.room)
	p := kernels.ChooseParams{
		Logits: x.logits, Rows: c.area, Wanted: c.area + 4*n,
		Bins: c.area + 8*n, List: c.area + n*(8+topCleared), Out: c.area + n*(8+topCleared+8*topRoom),
		Count: uint32(x.prog.Vocab), Room: topRoom,
	}
	if c.collect, err = newLaunch(x.dev, "choose_collect", topThreads, p); err != nil {
		return err
	}
	if c.sort, err = newLaunch(x.dev, "choose_sort", sortThreads, p); err != nil {
		return err
	}
	c.count, err = newLaunch(x.dev, "choose_count", topThreads, p)
	return err
}

// Fetch brings the logits of some rows of the last step to the host.
func (x *executable) Fetch(rows []int) ([]float32, error) {
	for _, r := range rows {
		if r < 0 || r >= x.shape.logits {
			return nil, fmt.Errorf("logits of row %d of %d", r, x.shape.logits)
		}
	}
	unbind, err := x.ended("fetch")
	if err != nil {
		return nil, err
	}
	defer unbind()
	return x.fetchRows(rows)
}

// fetchRows copies rows of the last step's logits, fetchRows at a time, and
// waits for them. Neighbours travel together.
func (x *executable) fetchRows(rows []int) ([]float32, error) {
	vocab, d := x.prog.Vocab, x.dev
	x.own = x.own[:0]
	for len(rows) > 0 {
		n, slots := 0, 0
		piece := rows[0] / x.logitRows * x.logitRows
		if err := x.last.hold(x, piece); err != nil {
			return nil, err
		}
		for n < len(rows) && slots < fetchRows && rows[n]/x.logitRows*x.logitRows == piece {
			run := 1
			for n+run < len(rows) && slots+run < fetchRows && rows[n+run] == rows[n]+run && rows[n+run] < piece+x.logitRows {
				run++
			}
			from := driver.Ptr(x.logits) + driver.Ptr(4*(rows[n]-piece)*vocab)
			if err := d.drv.CopyToHost(x.host[4*slots*vocab:4*(slots+run)*vocab], from, d.stream); err != nil {
				return nil, d.wrap(err, "fetch logits")
			}
			n, slots = n+run, slots+run
		}
		x.busy = false
		if err := d.drv.SyncStream(d.stream); err != nil {
			return nil, d.wrap(err, "fetch logits")
		}
		here := floats(x.host[:4*slots*vocab])
		if rows = rows[n:]; len(rows) == 0 && len(x.own) == 0 {
			return here, nil
		}
		x.own = append(x.own, here...)
	}
	return x.own, nil
}
