package cuda

import (
	"bytes"
	"strings"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/engine/quant"
	"kigo/kernels"
)

// OpenOn makes a device of a driver, which it owns if there is no error. It has one
// lane for uploading, and KV caches grow by a granule, because a hundred megabytes are
// much for a test.
func OpenOn(cfg Config, drv driver.Driver) (*Device, error) {
	cfg.lanes, cfg.chunkBytes = 1, 1
	return open(cfg, drv)
}

// Dequantized is what the kernel of that name makes of count values of a tensor,
// from first on, row by row.
func Dequantized(w device.Weights, tensor, first, count int) (v []float32, err error) {
	ws := w.(*weights)
	d := ws.dev
	unbind, err := d.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	out, err := d.allocate(uint64(4*count), "dequantized")
	if err != nil {
		return nil, err
	}
	l, err := newLaunch(d, "dequantize", 256, kernels.DequantizeParams{
		Layout: ws.layout(tensor), Out: uint64(out.ptr), First: uint64(first), Count: uint64(count),
	})
	if err != nil {
		return nil, err
	}
	if err := start(d, l.grid(ceilDiv(count, 256), 1, 1), d.stream); err != nil {
		return nil, err
	}
	raw, err := d.read(out.ptr, 4*count)
	if err != nil {
		return nil, err
	}
	return floats(raw), d.release(&out)
}

// Memory is a copy of all that lies where a tensor does, with what fills it up.
func Memory(w device.Weights, tensor int) ([]byte, error) {
	ws := w.(*weights)
	unbind, err := ws.dev.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	p := &ws.places[tensor]
	return ws.dev.read(ws.mem.ptr+driver.Ptr(p.offset), int(p.bytes))
}

// SetMemory puts what Memory returned back.
func SetMemory(w device.Weights, tensor int, b []byte) error {
	ws := w.(*weights)
	d := ws.dev
	unbind, err := d.bind()
	if err != nil {
		return err
	}
	defer unbind()
	host, err := d.drv.HostAlloc(len(b))
	if err != nil {
		return err
	}
	copy(host, b)
	if err := d.drv.CopyToDevice(ws.mem.ptr+driver.Ptr(ws.places[tensor].offset), host, d.stream); err != nil {
		return err
	}
	if err := d.drv.SyncStream(d.stream); err != nil {
		return err
	}
	return d.drv.HostFree(host)
}

// Locate is the address of a byte of a row.
func Locate(l *kernels.Layout, row, at int) uint64 { return locate(l, row, at) }

// Located is where a byte of a row of a tensor lies in its Memory.
func Located(w device.Weights, tensor, row, at int) int {
	l := w.(*weights).places[tensor].layout(0)
	l.Base = 0
	return int(locate(&l, row, at))
}

// read copies device memory to the Go heap. The context must be bound.
func (d *Device) read(p driver.Ptr, n int) ([]byte, error) {
	host, err := d.drv.HostAlloc(n)
	if err != nil {
		return nil, err
	}
	if err := d.drv.CopyToHost(host, p, d.stream); err != nil {
		return nil, err
	}
	if err := d.drv.SyncStream(d.stream); err != nil {
		return nil, err
	}
	b := bytes.Clone(host)
	return b, d.drv.HostFree(host)
}

// contains says whether an error's text has all the words.
func contains(err error, words ...string) bool {
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			return false
		}
	}
	return true
}

// Spread is how attention spreads a row's units: see attention.spread. A unit's keys have so
// many bytes of shared memory, its sums so many.
func Spread(splits, mostTeams, keys, sums int, clusters bool) (teams, cluster int) {
	o := &attention{mostTeams: mostTeams, shared: 2 * keys, unitSums: sums}
	return o.spread(splits, clusters)
}

// Tiles is how attention takes a step's rows on a GPU with so many multiprocessors:
// how many go to attend_one, and first row, rows, position and place in the tables of
// each.
func Tiles(step *device.Step, heads, group, multiprocessors, blockSize int) (alone int, tiles [][4]int32) {
	s := stepShape{rows: len(step.Tokens)}
	s.tile(step, heads, group, multiprocessors)
	flat := make([]int32, tileInts*(s.alone+s.tiles))
	writeTiles(flat, step, &s, blockSize)
	for ; len(flat) > 0; flat = flat[tileInts:] {
		tiles = append(tiles, [4]int32(flat))
	}
	return s.alone, tiles
}

// Splits is over how many blocks attention spreads the positions of a row at most, on a
// GPU with so many multiprocessors; 0: a block walks over them.
func Splits(step *device.Step, heads, group, multiprocessors int) int {
	s := stepShape{rows: len(step.Tokens)}
	s.tile(step, heads, group, multiprocessors)
	return s.splits
}

// WithLogitBytes is a configuration with room for so many bytes of logits at a time.
func WithLogitBytes(cfg Config, bytes int) Config {
	cfg.logitBytes = bytes
	return cfg
}

// Unrecorded is a configuration without graphs.
func Unrecorded(cfg Config) Config {
	cfg.unrecorded = true
	return cfg
}

// WithWide is a configuration in which wide has so many rows a block, and, wherever there
// is such a shape, so many tiles a warp, joint warpgroups or not, so many blocks that
// share segments, or any number if that is 0, and through memory or not.
func WithWide(cfg Config, rows, tiles int, joint bool, splits int, far bool) Config {
	cfg.wide = wideWish{rows, tiles, splits, joint, far}
	return cfg
}

// WithCodeForEveryGPU is a configuration for a GPU that Kigo has no machine code for: the
// driver compiles the code for every GPU.
func WithCodeForEveryGPU(cfg Config) Config {
	cfg.major = 99
	return cfg
}

// Wide is the shape of wide for a matrix, on a GPU with an H100's shared memory where
// so many clusters fit, by their size: how many outputs a block has, how many blocks
// share segments, and the shared memory of each. With a gate there are so many
// outputs of either matrix, and four segments instead of eight.
func Wide(rows, outputs, width int, gated bool, clusters map[int]int) (wide, splits, shared int) {
	segments, gate := 8, uint32(0)
	if gated {
		segments, gate = 4, 1
	}
	pr := &product{tiles: ceilDiv(outputs, tileRows), clusters: clusters}
	pr.setShapes(wideShapes(segments, gated, 227<<10, func(int) bool { return true }), wideWish{})
	for i := range pr.wide {
		pr.wide[i] = &launch[kernels.ProjectParams]{params: kernels.ProjectParams{Stride: uint32(stride(width)), Segments: uint32(segments), Gated: gate}}
	}
	s := pr.cheapest(rows)
	return tileRows * s.tiles(&pr.wide[s.kernel].params), s.splits, s.shared(segments)
}

// ShareOut is how blocks are shared out among matrices of those formats with so many
// outputs each, for a single row of that width, with so many left to others if possible.
func ShareOut(t testing.TB, blocks, free, width int, formats []quant.Type, outputs []int) []int {
	t.Helper()
	var parts []onePart
	for i, typ := range formats {
		f, err := quant.Lookup(typ)
		if err != nil {
			t.Fatal(err)
		}
		p, err := place(device.Tensor{Format: f, Rows: outputs[i], Cols: width}, 0)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, onePart{like: &p, tiles: ceilDiv(outputs[i], tileRows), segments: 8})
	}
	shared := shareOut(blocks, parts)
	if free == 0 {
		return shared
	}
	return leave(shared, blocks-free, parts)
}

// Graphs is how many recorded steps an executable has.
func Graphs(e device.Executable) (n int) {
	for _, g := range e.(*executable).graphs {
		if g != 0 {
			n++
		}
	}
	return n
}

// DrawInput is what is sent to draw tokens of the logits that begin with row 0, as
// for memory at an address, and which kernels are needed. fits says whose there is
// room for; others are not in it.
func DrawInput(wants []device.Draw, count int, area uint64) (in []byte, fits []int, largest, cut, sum bool) {
	c := &drawing{room: len(wants), area: area}
	c.in = make([]byte, c.inBytes())
	for i := range wants {
		if drawable(&wants[i]) {
			fits = append(fits, i)
		}
	}
	fits = c.fitting(wants, fits)
	used, n := c.write(0, count, wants, fits)
	return c.in[:used], fits, n.largest, n.cut, n.sum
}

// CheckDraws refuses what Draw refuses.
func CheckDraws(wants []device.Draw, rows, vocab int) error {
	return (&drawing{}).check(wants, rows, vocab)
}
