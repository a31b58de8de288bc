package cuda_test

import (
	"encoding/binary"
	"math"
	"strings"
	"unsafe"

	"kigo/engine/device"
	"kigo/engine/device/cuda"
	"kigo/engine/device/cuda/driver"
	"kigo/engine/device/cuda/driver/fakedriver"
	"kigo/kernels"
)

// fakeGPU is a driver whose kernels are Go functions: what moves bytes is real, so
// that a load can be proven; what computes writes ones, where the real kernels
// write results.
type fakeGPU struct {
	*fakedriver.Driver
	nan string // the kernel that writes NaNs instead
}

func newFakeGPU() *fakeGPU { return newFakeGPUOf(driver.Properties{}) }

// newFakeGPUOf is one of another kind; what is 0 is an H100's.
func newFakeGPUOf(props driver.Properties) *fakeGPU {
	g := &fakeGPU{Driver: fakedriver.New(fakedriver.Config{Properties: props})}
	known := map[string]fakedriver.Kernel{}
	for _, k := range []fakedriver.Kernel{
		fakedriver.Typed("repack", fakeRepack),
		fakedriver.Typed("hash_tensor", fakeHash),
		fakedriver.Typed("dequantize", func(_ driver.Launch, p *kernels.DequantizeParams, m fakedriver.Memory) error {
			return g.write(m, "dequantize", p.Out, p.Count)
		}),
		fakedriver.Typed("embed", func(_ driver.Launch, p *kernels.EmbedParams, m fakedriver.Memory) error {
			if a := &p.Angles; a.Pairs > 0 {
				if err := g.write(m, "angles", a.Out, 2*uint64(a.Rows)*uint64(a.Pairs)); err != nil {
					return err
				}
			}
			return g.write(m, "embed", p.Out, uint64(p.Rows)*uint64(p.Table.Cols))
		}),
		fakedriver.Typed("angles", func(_ driver.Launch, p *kernels.AnglesParams, m fakedriver.Memory) error {
			return g.write(m, "angles", p.Out, 2*uint64(p.Rows)*uint64(p.Pairs))
		}),
		fakedriver.Typed("prepare", func(_ driver.Launch, p *kernels.PrepareParams, m fakedriver.Memory) error {
			if p.Wide == 0 {
				return nil
			}
			return g.write(m, "prepare", p.Wide, uint64(p.Rows)*uint64(p.Width))
		}),
		fakedriver.Typed("project_f32", func(_ driver.Launch, p *kernels.ProjectF32Params, m fakedriver.Memory) error {
			return g.write(m, "project_f32", p.Out, uint64(p.Rows)*uint64(p.Outs))
		}),
		fakedriver.Typed("gate", func(_ driver.Launch, p *kernels.GateParams, m fakedriver.Memory) error {
			return g.write(m, "gate", p.Out, p.Count)
		}),
		fakedriver.Typed("append", func(_ driver.Launch, p *kernels.AppendParams, m fakedriver.Memory) error {
			dim := uint64(p.Cache.HeadDim)
			if err := g.write(m, "append", p.QOut, uint64(p.Rows)*uint64(p.Heads)*dim); err != nil {
				return err
			}
			return g.write(m, "append", p.KOut, uint64(p.Rows)*uint64(p.Cache.KvHeads)*dim)
		}),
	} {
		known[k.Name] = k
	}
	for _, family := range kernels.Families() {
		for _, k := range kernels.Kernels(family) {
			fake, ok := known[k.Name]
			if !ok {
				fake = g.computing(k)
			}
			g.Register(fake)
		}
	}
	return g
}

// computing is a kernel of a family that has many.
func (g *fakeGPU) computing(k kernels.Kernel) fakedriver.Kernel {
	switch k.Params {
	case "ProjectParams":
		return fakedriver.Typed(k.Name, func(_ driver.Launch, p *kernels.ProjectParams, m fakedriver.Memory) error {
			results := p.Matrices
			if p.Gated != 0 {
				results = 1
			}
			for _, x := range p.Matrix[:results] {
				if err := g.write(m, k.Name, x.Out, uint64(p.Rows)*uint64(x.Outs)); err != nil {
					return err
				}
			}
			return nil
		})
	case "AttendParams":
		return fakedriver.Typed(k.Name, func(l driver.Launch, p *kernels.AttendParams, m fakedriver.Memory) error {
			n := l.Grid[2] // of attend_one and attend_append
			if strings.HasPrefix(k.Name, "attend_many") {
				n = l.Grid[0]
			}
			tiles, err := fakedriver.Slice[int32](m, driver.Ptr(p.Tiles), int(4*n))
			if err != nil {
				return err
			}
			row := uint64(p.Heads) * uint64(p.Cache.HeadDim)
			for ; len(tiles) > 0; tiles = tiles[4:] {
				if err := g.write(m, k.Name, p.Out+4*row*uint64(tiles[0]), uint64(tiles[1])*row); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return fakedriver.Kernel{Name: k.Name, ParamBytes: k.Size, Run: func(driver.Launch, unsafe.Pointer, fakedriver.Memory) error { return nil }}
}

// write puts ones where a kernel's results go.
func (g *fakeGPU) write(m fakedriver.Memory, kernel string, at, count uint64) error {
	v, err := fakedriver.Slice[float32](m, driver.Ptr(at), int(count))
	if err != nil {
		return err
	}
	x := float32(1)
	if g.nan == kernel {
		x = float32(math.NaN())
	}
	for i := range v {
		v[i] = x
	}
	return nil
}

// fakeRepack is kernel repack by the Go mirror of locate.
func fakeRepack(_ driver.Launch, p *kernels.RepackParams, m fakedriver.Memory) error {
	from, err := m.Bytes(driver.Ptr(p.From), p.Bytes)
	if err != nil {
		return err
	}
	for i, b := range from {
		at := p.First + uint64(i)
		to, err := m.Bytes(driver.Ptr(cuda.Locate(&p.Layout, int(at/uint64(p.Layout.RowBytes)), int(at%uint64(p.Layout.RowBytes)))), 1)
		if err != nil {
			return err
		}
		to[0] = b
	}
	return nil
}

// fakeHash is kernel hash_tensor.
func fakeHash(_ driver.Launch, p *kernels.HashParams, m fakedriver.Memory) error {
	l := &p.Layout
	raw := make([]byte, l.Size)
	for i := range raw {
		b, err := m.Bytes(driver.Ptr(cuda.Locate(l, i/int(l.RowBytes), i%int(l.RowBytes))), 1)
		if err != nil {
			return err
		}
		raw[i] = b[0]
	}
	var h device.Hash
	h.Add(0, raw)
	sum, err := m.Bytes(driver.Ptr(p.Sum), 8)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint64(sum, binary.LittleEndian.Uint64(sum)+uint64(h))
	return nil
}

// open makes a device of the fake.
func (g *fakeGPU) open(cfg cuda.Config) (*cuda.Device, error) {
	d, err := cuda.OpenOn(cfg, g)
	if err != nil {
		_ = g.Driver.Close() // as New does
		return nil, err
	}
	return d, nil
}
