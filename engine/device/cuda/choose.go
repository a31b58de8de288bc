package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// Begin starts a step, and after it the journey of the ranks of its rows' largest
// logits.
func (x *executable) Begin(step *device.Step) error {
	if err := x.open("begin"); err != nil {
		return err
	}
	if x.under == len(x.turns) {
		return fmt.Errorf("%w: two steps are under way", device.ErrBadStep)
	}
	if err := x.drawing.check(step.Draws, len(step.Logits), x.prog.Vocab); err != nil {
		return fmt.Errorf("%w: %w", device.ErrBadStep, err)
	}
	unbind, err := x.perform(step, false)
	if err != nil {
		return err
	}
	defer unbind()
	if err := x.rank(step.Draws); err != nil {
		return errors.Join(err, x.wait())
	}
	x.under++
	x.named = x.shape.logits
	return nil
}

// rank has the largest logits of a step that was started be found and sent, and then
// tokens drawn, which take their places on the device.
func (x *executable) rank(draws []device.Draw) error {
	if err := x.last.computeRest(x); err != nil {
		return err
	}
	t, d := x.now(), x.dev
	if t.logits > 0 {
		if err := d.drv.CopyToHost(t.ranks[:8*t.logits], driver.Ptr(t.best), d.stream); err != nil {
			return d.wrap(err, "fetch the largest logits")
		}
	}
	if err := x.drawBehind(draws); err != nil {
		return err
	}
	return d.wrap(d.drv.Record(t.there, d.stream), "fetch the largest logits")
}

// open says whether anything can be asked for.
func (x *executable) open(doing string) error {
	if x.closed || x.cache.closed.Load() || x.ws.closed.Load() {
		return fmt.Errorf("%s: %w", doing, device.ErrClosed)
	}
	return nil
}

// passed says whether the logits of the step that somebody asked about are gone.
func (x *executable) passed(doing string) error {
	if x.under > 0 {
		return fmt.Errorf("%s: %w: %d steps are under way", doing, device.ErrPassed, x.under)
	}
	return nil
}

// wait is for the end of all steps that are under way. The context must be bound.
func (x *executable) wait() error {
	if !x.busy {
		return nil
	}
	x.busy = false
	return x.dev.wrap(x.dev.drv.SyncStream(x.dev.stream), "step of %d rows", x.shape.rows)
}

// ended waits for the step whose logits somebody asks for, and binds the context.
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

// Largest waits for what Begin has sent, and not for the step behind it.
func (x *executable) Largest() ([]device.Ranked, error) {
	if err := x.open("largest"); err != nil {
		return nil, err
	}
	t := x.now()
	switch x.under {
	case 0:
		return nil, fmt.Errorf("largest: %w: no step is under way", device.ErrPassed)
	case 2:
		t = x.before()
	}
	x.under--
	unbind, err := x.dev.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	if err := x.dev.drv.SyncEvent(t.there); err != nil {
		return nil, x.dev.wrap(err, "step of %d rows", t.rows)
	}
	x.busy, x.asked = x.under > 0, t
	for j, id := range int32s(t.drawOut)[:len(t.wants)] {
		t.drawn[t.wants[j]] = id
	}
	c := &x.choosing
	c.largest = c.largest[:0]
	for i := range t.logits {
		c.largest = append(c.largest, unrank(binary.LittleEndian.Uint64(t.ranks[8*i:])))
	}
	return c.largest, nil
}

// Drawn is what came with what Largest has given.
func (x *executable) Drawn() []int32 {
	if x.asked == nil {
		return nil
	}
	return x.asked.drawn
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

// choosing is what the largest logits of a step's rows are found with.
type choosing struct {
	largest []device.Ranked
	search  *launch[kernels.ChooseParams] // for logits that no product has ranked
	place   []int                         // memory of pieces
}

// searchLargest finds the largest of n rows of logits, which are the step's from row at
// on, where the product that made them does not.
func (c *choosing) searchLargest(x *executable, at, n int) (err error) {
	if c.search == nil {
		if c.search, err = newLaunch(x.dev, "choose_largest", chooseThreads, kernels.ChooseParams{Logits: x.logits, Count: uint32(x.prog.Vocab)}); err != nil {
			return err
		}
	}
	c.search.params.Out = x.now().best + uint64(8*at)
	return start(x.dev, c.search.grid(x.sharing(n), n, 1), x.dev.stream)
}

// chooseThreads are those of a block of kernels/choose.cu.
const chooseThreads = 256

// sharing is how many blocks of kernels/choose.cu share a row of logits of n.
func (x *executable) sharing(n int) int {
	sms := x.dev.props.SMs
	return max(1, min(ceilDiv(x.prog.Vocab, chooseThreads), sms, ceilDiv(4*sms, n)))
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

// Fetch brings the logits of some rows of the last step to the host.
func (x *executable) Fetch(rows []int) ([]float32, error) {
	if err := x.open("fetch"); err != nil {
		return nil, err
	}
	if err := x.passed("fetch"); err != nil {
		return nil, err
	}
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
