package cuda

import (
	"errors"

	"kigo/engine/device"
)

// inputs are a step's numbers on their way to the device: a pinned buffer, copied as a
// whole. There are two of them, which steps take in turn, because one may not have
// arrived yet when the next one is written; on the device one step follows the other.
type inputs struct {
	maxRows int
	host    [2][]byte
	device  buffer
	turn    int
	ints    []int32 // host[turn] as numbers
}

// The order of the parts: tokens, positions, tableOf and pick of maxRows each,
// tiles of four times that, then the tables.
const inputParts = 4 + tileInts

func (in *inputs) init(d *Device, rows, tables int) error {
	in.maxRows = rows
	return in.grow(d, tables)
}

// grow makes room for so many numbers of tables, when no step is under way.
func (in *inputs) grow(d *Device, tables int) (err error) {
	if err := in.free(d); err != nil {
		return err
	}
	size := 4 * (inputParts*in.maxRows + tables)
	for i := range in.host {
		if in.host[i], err = d.drv.HostAlloc(size); err != nil {
			return d.wrap(err, "memory for inputs")
		}
	}
	in.take(0)
	in.device, err = d.allocate(uint64(size), "inputs")
	return err
}

// take has a buffer be written, whose last step has ended or is followed by one that has.
func (in *inputs) take(turn int) { in.turn, in.ints = turn, int32s(in.host[turn]) }

func (in *inputs) free(d *Device) error {
	var err error
	for i := range in.host {
		if in.host[i] != nil {
			err = errors.Join(err, d.drv.HostFree(in.host[i]))
			in.host[i], in.ints = nil, nil
		}
	}
	return d.wrap(errors.Join(err, d.release(&in.device)), "memory for inputs")
}

func (in *inputs) part(n int) []int32 { return in.ints[n*in.maxRows : (n+1)*in.maxRows] }

// at is the device address of a part.
func (in *inputs) at(n int) uint64 { return uint64(in.device.ptr) + uint64(4*n*in.maxRows) }

func (in *inputs) tokens() uint64    { return in.at(0) }
func (in *inputs) positions() uint64 { return in.at(1) }
func (in *inputs) tableOf() uint64   { return in.at(2) }
func (in *inputs) pick() uint64      { return in.at(3) }
func (in *inputs) tables() uint64    { return in.at(inputParts) }

// tiles is where the tiles of attention begin, from one on.
func (in *inputs) tiles(from int) uint64 { return in.at(4) + uint64(4*tileInts*from) }

// fits says whether there is room for the step's tables, and what they need.
func (in *inputs) fits(step *device.Step, blockSize int) (need int, ok bool) {
	need = 1
	for _, s := range step.Seqs {
		need += ceilDiv(s.Start+s.Rows, blockSize)
	}
	return need, need <= len(in.ints)-inputParts*in.maxRows
}

// write fills in a step that fits and sends it. Rows that fill it up to shape's have
// token 0 at position 0 of a sequence whose one block is nobody's; their logits, if
// shape has more than the step, are those of the last of them.
//
// Tables are sent as a whole, though most of them is what it was in the step before:
// for 16 tokens' keys and values, which attention will read, that is one number.
func (in *inputs) write(d *Device, step *device.Step, shape *stepShape, c *cache) error {
	blockSize := c.shape.BlockSize
	copy(in.part(0), step.Tokens)
	positions, tableOf, pick, tables := in.part(1), in.part(2), in.part(3), in.ints[inputParts*in.maxRows:]
	tables[0] = nobody
	row, at := 0, 1
	for i := range step.Seqs {
		s := &step.Seqs[i]
		for r := range s.Rows {
			positions[row], tableOf[row] = int32(s.Start+r), int32(at)
			row++
		}
		table := tables[at:][:ceilDiv(s.Start+s.Rows, blockSize)]
		for j, b := range s.Blocks[:len(table)] {
			table[j] = c.part(b)
		}
		at += len(table)
	}
	for ; row < shape.rows; row++ {
		in.part(0)[row], positions[row], tableOf[row] = 0, 0, 0
	}
	for i, r := range step.Logits {
		pick[i] = int32(r)
	}
	for i := len(step.Logits); i < shape.logits; i++ {
		pick[i] = int32(shape.rows - 1)
	}
	writeTiles(in.ints[4*in.maxRows:inputParts*in.maxRows], step, shape, blockSize)
	return d.drv.CopyToDevice(in.device.ptr, in.host[in.turn][:4*(inputParts*in.maxRows+at)], d.stream)
}
