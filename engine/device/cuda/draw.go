package cuda

import (
	"fmt"
	"slices"
	"unsafe"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// Drawing takes drawRows rows in one go, as long as their edits and masks have at most
// drawBytes: memory on the device and as much that is pinned. A mask of 152,000 tokens
// has 19 KB.
const (
	drawRows  = 256
	drawBytes = 1 << 20

	drawBins  = int(kernels.DrawBins)
	drawRoom  = int(kernels.DrawRoom)
	drawChunk = int(kernels.DrawChunk)

	sortThreads = 512
	rowBytes    = int(unsafe.Sizeof(kernels.DrawRow{}))
	editBytes   = int(unsafe.Sizeof(kernels.DrawEdit{}))
	stateBytes  = int(unsafe.Sizeof(kernels.DrawState{}))
)

// drawing is what tokens are drawn with: the kernels of kernels/choose.cu, in their
// order, and their memory.
type drawing struct {
	room   int    // rows in one go
	area   uint64 // what the host sends: rows, then edits and masks
	params kernels.DrawParams

	in, out []byte // pinned: the turn's

	start, largest, weigh, collect, cut, sum, pick *launch[kernels.DrawParams]

	ids  []int32
	here []int  // wants whose rows are held
	seen []bool // rows that somebody wants
}

func (c *drawing) layOut(a *arena, x *executable) {
	c.room = min(x.logitRows, drawRows)
	n, chunks := uint64(c.room), ceilDiv(x.prog.Vocab, drawChunk)
	c.area = a.take(uint64(c.inBytes()))
	c.params = kernels.DrawParams{
		Logits: x.logits,
		Rows:   c.area,
		States: a.take(n * uint64(stateBytes)),
		Bins:   a.take(n * 8 * uint64(drawBins)),
		List:   a.take(n * 8 * uint64(drawRoom)),
		Sums:   a.take(n * 8 * uint64(chunks)),
		Out:    a.take(n * 4),
		Count:  uint32(x.prog.Vocab),
		Chunks: uint32(chunks),
	}
}

func (c *drawing) inBytes() int { return c.room*rowBytes + drawBytes }

func (c *drawing) takeHost(d *Device, t *turn) (err error) {
	if t.drawIn, err = d.drv.HostAlloc(c.inBytes()); err == nil {
		t.drawOut, err = d.drv.HostAlloc(4 * c.room)
	}
	return d.wrap(err, "memory for drawing")
}

// drawBehind has tokens be drawn of a step that was started, and sent. Those for which
// there is no room, or whose logits are not at hand, are left to the host.
func (x *executable) drawBehind(wants []device.Draw) error {
	t, c := x.now(), &x.drawing
	t.drawn, t.wants = t.drawn[:0], t.wants[:0]
	for i := range wants {
		t.drawn = append(t.drawn, -1)
		if drawable(&wants[i]) && x.shape.logits <= x.logitRows {
			t.wants = append(t.wants, i)
		}
	}
	t.wants = c.fitting(wants, t.wants)
	if len(t.wants) == 0 {
		return nil
	}
	return x.dev.wrap(x.launchDraws(0, wants, t.wants), "draw tokens")
}

// Draw draws on the device: of the rows whose logits are held first, then of those of
// the next piece of the step.
func (x *executable) Draw(wants []device.Draw) ([]int32, error) {
	c := &x.drawing
	if err := x.open("draw"); err != nil {
		return nil, err
	}
	if err := x.passed("draw"); err != nil {
		return nil, err
	}
	if err := c.check(wants, x.shape.logits, x.prog.Vocab); err != nil {
		return nil, err
	}
	unbind, err := x.ended("draw")
	if err != nil {
		return nil, err
	}
	defer unbind()
	for _, at := range x.pieces() {
		c.here = c.here[:0]
		for i := range wants {
			if w := &wants[i]; w.Row >= at && w.Row < at+x.logitRows && drawable(w) {
				c.here = append(c.here, i)
			}
		}
		for rest := c.here; len(rest) > 0; {
			part := c.fitting(wants, rest)
			rest = rest[len(part):]
			if err := x.drawHeld(at, wants, part); err != nil {
				return nil, x.dev.wrap(err, "draw tokens")
			}
		}
	}
	return c.ids, nil
}

// check refuses what would have the kernels leave their memory or change a row twice,
// and sets every result to unknown.
func (c *drawing) check(wants []device.Draw, rows, vocab int) error {
	c.seen, c.ids = slices.Grow(c.seen[:0], rows)[:rows], c.ids[:0]
	clear(c.seen)
	for i := range wants {
		w := &wants[i]
		if w.Row < 0 || w.Row >= rows || w.Plan == nil {
			return fmt.Errorf("a token of row %d of %d", w.Row, rows)
		}
		if c.seen[w.Row] {
			return fmt.Errorf("two tokens of row %d", w.Row)
		}
		c.seen[w.Row] = true
		if w.Vocab < 1 || w.Vocab > vocab {
			return fmt.Errorf("a token of %d for row %d, which has %d", w.Vocab, w.Row, vocab)
		}
		for _, e := range w.Edits {
			if e.ID < 0 || int(e.ID) >= w.Vocab {
				return fmt.Errorf("an edit of token %d of %d, in row %d", e.ID, w.Vocab, w.Row)
			}
		}
		c.ids = append(c.ids, -1)
	}
	return nil
}

// drawable says whether there is room for what a row needs.
func drawable(w *device.Draw) bool {
	return w.TopK <= drawRoom && w.Vocab <= drawChunk*drawRoom && extraBytes(w) <= drawBytes
}

// extraBytes are what a row's edits and mask take.
func extraBytes(w *device.Draw) int {
	n := len(w.Edits) * editBytes
	if w.Allowed != nil {
		n += 4 * ceilDiv(w.Vocab, 32)
	}
	return n
}

// fitting is how far there is room for some of wants, by their indices.
func (c *drawing) fitting(wants []device.Draw, some []int) []int {
	bytes := 0
	for n, i := range some {
		if bytes += extraBytes(&wants[i]); n == c.room || bytes > drawBytes {
			return some[:n]
		}
	}
	return some
}

// needs are the kernels that some rows cannot do without.
type needs struct{ largest, cut, sum bool }

// write puts what is sent of some of wants, whose logits begin with row at, in memory.
func (c *drawing) write(at, count int, wants []device.Draw, part []int) (used int, n needs) {
	used = len(part) * rowBytes
	rows := unsafe.Slice((*kernels.DrawRow)(unsafe.Pointer(unsafe.SliceData(c.in))), len(part))
	for j, i := range part {
		w := &wants[i]
		r := kernels.DrawRow{
			Scale: w.Scale, Random: w.Random, Share: w.TopP, Least: w.Least,
			Row: uint32(w.Row - at), Vocab: uint32(w.Vocab), Top: uint32(w.TopK), Edited: uint32(len(w.Edits)),
			Repetition: w.Repetition, Presence: w.Presence, Frequency: w.Frequency,
		}
		if len(w.Edits) > 0 {
			r.Edits = c.area + uint64(used)
			edits := unsafe.Slice((*kernels.DrawEdit)(unsafe.Pointer(&c.in[used])), len(w.Edits))
			for k, e := range w.Edits {
				edits[k] = kernels.DrawEdit{Id: uint32(e.ID), Bias: e.Bias, Times: uint32(e.Times)}
			}
			used += len(w.Edits) * editBytes
		}
		if w.Allowed != nil {
			r.Allowed = c.area + uint64(used)
			mask := unsafe.Slice((*uint32)(unsafe.Pointer(&c.in[used])), ceilDiv(w.Vocab, 32))
			for k := range mask {
				mask[k] = 0 // beyond the mask nothing is allowed
				if k/2 < len(w.Allowed) {
					mask[k] = uint32(w.Allowed[k/2] >> (k % 2 * 32))
				}
			}
			used += 4 * len(mask)
		}
		// The largest of a row is known, unless it may be another one here. One that
		// is itself the result has to be looked for, with an eye on NaNs.
		if w.Scale == 0 || len(w.Edits) > 0 || w.Allowed != nil || w.Vocab < count {
			r.Search, n.largest = 1, true
		}
		n.cut = n.cut || w.Scale != 0 && (w.TopK > 0 || w.TopP > 0)
		n.sum = n.sum || w.Scale != 0 && w.TopK == 0
		rows[j] = r
	}
	return used, n
}

// drawHeld draws for some of wants, by their indices, whose rows are in the piece that
// begins at row at.
func (x *executable) drawHeld(at int, wants []device.Draw, part []int) error {
	c, d := &x.drawing, x.dev
	if err := x.last.hold(x, at); err != nil {
		return err
	}
	if err := x.launchDraws(at, wants, part); err != nil {
		return err
	}
	if err := d.drv.SyncStream(d.stream); err != nil {
		return err
	}
	for j, id := range int32s(c.out)[:len(part)] {
		c.ids[part[j]] = id
	}
	return nil
}

// launchDraws draws from the logits at hand, and sends the tokens.
func (x *executable) launchDraws(at int, wants []device.Draw, part []int) error {
	c, d := &x.drawing, x.dev
	if c.pick == nil {
		if err := c.prepare(d); err != nil {
			return err
		}
	}
	used, needs := c.write(at, x.prog.Vocab, wants, part)
	if err := d.drv.CopyToDevice(driver.Ptr(c.area), c.in[:used], d.stream); err != nil {
		return err
	}
	n := len(part)
	share := x.sharing(n)
	for _, l := range []struct {
		needed bool
		launch *launch[kernels.DrawParams]
		blocks int // in a row
	}{
		{true, c.start, 1},
		{needs.largest, c.largest, share},
		{needs.cut, c.weigh, share},
		{needs.cut, c.collect, share},
		{needs.cut, c.cut, 1},
		{needs.sum, c.sum, int(c.params.Chunks)},
		{true, c.pick, 1},
	} {
		if !l.needed {
			continue
		}
		l.launch.params.Best = x.now().best + uint64(8*at)
		if err := start(d, l.launch.grid(l.blocks, n, 1), d.stream); err != nil {
			return err
		}
	}
	return d.drv.CopyToHost(c.out[:4*n], driver.Ptr(c.params.Out), d.stream)
}

// prepare makes the launches.
func (c *drawing) prepare(d *Device) (err error) {
	for _, l := range []struct {
		name    string
		threads int
		to      **launch[kernels.DrawParams]
	}{
		{"draw_start", chooseThreads, &c.start},
		{"draw_largest", chooseThreads, &c.largest},
		{"draw_weigh", chooseThreads, &c.weigh},
		{"draw_collect", chooseThreads, &c.collect},
		{"draw_cut", sortThreads, &c.cut},
		{"draw_sum", chooseThreads, &c.sum},
		{"draw_pick", sortThreads, &c.pick},
	} {
		if *l.to, err = newLaunch(d, l.name, l.threads, c.params); err != nil {
			return err
		}
	}
	return nil
}
