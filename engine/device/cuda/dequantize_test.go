package cuda_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cuda"
	"kigo/engine/gguf"
	"kigo/engine/load"
	"kigo/engine/quant"
)

// tensors are a small model's worth of bytes, as in a file.
type tensors struct {
	declared []device.Tensor
	sources  []load.Source
	file     []byte
}

// add appends a tensor. cols counts blocks of the format where it has blocks.
func (s *tensors) add(name string, f *quant.Format, rows, blocks int, raw []byte) {
	x := device.Tensor{Name: name, Format: f, Rows: rows, Cols: blocks * f.BlockSize}
	s.declared = append(s.declared, x)
	s.sources = append(s.sources, load.Source{Name: name, Offset: int64(len(s.file)), Size: int64(x.Bytes())})
	s.file = append(s.file, raw[:x.Bytes()]...)
}

// bytes are a tensor's.
func (s *tensors) bytes(i int) []byte {
	src := s.sources[i]
	return s.file[src.Offset : src.Offset+src.Size]
}

// load brings all of them to a device, proven.
func (s *tensors) load(t testing.TB, dev device.Device) device.Weights {
	t.Helper()
	w, _ := s.loadWithHashes(t, dev)
	return w
}

func (s *tensors) loadWithHashes(t testing.TB, dev device.Device) (device.Weights, []uint64) {
	t.Helper()
	w, err := dev.NewWeights(s.declared)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	hashes, err := load.Read(t.Context(), bytes.NewReader(s.file), s.sources, w, nil)
	if err == nil {
		err = load.Verify(t.Context(), s.sources, hashes, w)
	}
	if err != nil {
		t.Fatal(err)
	}
	return w, hashes
}

// sameBits compares values bit for bit; NaNs keep no payload.
func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	for i := range got {
		if g, w := math.Float32bits(got[i]), math.Float32bits(want[i]); g != w && !(got[i] != got[i] && want[i] != want[i]) {
			t.Fatalf("%s: value %d is %v (%#08x), want %v (%#08x)", what, i, got[i], g, want[i], w)
		}
	}
}

// odd are shapes in rows and blocks: tiles of 16 rows begun, full and exceeded,
// single blocks, and rows whose bytes are aligned to nothing.
var odd = [][2]int{{1, 1}, {2, 7}, {3, 1}, {15, 2}, {16, 3}, {17, 5}, {31, 1}, {33, 4}}

// Every format, at every block offset of rows of odd shapes, is dequantized to the
// bits that package quant makes: of blocks with any bits there can be, infinities
// and NaNs among them. (The predecessor faulted on a load of 4 bytes at byte 2 of a
// block of 22.)
func TestLesson_EveryFormatAtEveryBlockOffset(t *testing.T) {
	dev := open(t, cuda.Config{})
	t.Cleanup(func() { dev.Close() })
	for _, f := range quant.All() {
		t.Run(f.Name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(21, uint64(f.Type)))
			s := &tensors{}
			for _, shape := range odd {
				blocks := shape[1]
				if f.BlockSize == 1 {
					blocks = 9*blocks - 4
				}
				raw := make([]byte, shape[0]*blocks*f.BlockBytes)
				for i := range raw {
					raw[i] = byte(rng.Uint32())
				}
				s.add(fmt.Sprint(shape), f, shape[0], blocks, raw)
			}
			w := s.load(t, dev)
			for i, x := range s.declared {
				all := make([]float32, x.Rows*x.Cols)
				f.Dequantize(all, s.bytes(i))
				got, err := cuda.Dequantized(w, i, 0, len(all))
				if err != nil {
					t.Fatal(err)
				}
				sameBits(t, fmt.Sprintf("%s as a whole", x.Name), got, all)
				if i%2 == 1 && x.Rows > 3 {
					continue // one block at a time for a few
				}
				for first := 0; first < len(all); first += f.BlockSize {
					for _, part := range [][2]int{{first, f.BlockSize}, {first, 1}, {first + f.BlockSize - 1, 1}, {first + f.BlockSize/2, f.BlockSize}} {
						if part[0]+part[1] > len(all) {
							continue
						}
						got, err := cuda.Dequantized(w, i, part[0], part[1])
						if err != nil {
							t.Fatal(err)
						}
						sameBits(t, fmt.Sprintf("%s, %d values from %d", x.Name, part[1], part[0]), got, all[part[0]:part[0]+part[1]])
					}
				}
			}
		})
	}
}

// The golden blocks of engine/quant/testdata, which an independent implementation
// dequantized: as one row, as a column, and as rows of three.
func TestDequantizeEqualsGolden(t *testing.T) {
	dev := open(t, cuda.Config{})
	t.Cleanup(func() { dev.Close() })
	data, err := os.ReadFile(filepath.Join("..", "..", "quant", "testdata", "blocks.gguf"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := gguf.Parse(bytes.NewReader(data), int64(len(data)), gguf.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	golden := func(name string) []byte {
		x, ok := file.Tensor(name)
		if !ok {
			t.Fatalf("no tensor %s", name)
		}
		return data[x.Offset : x.Offset+x.Size]
	}
	f32, err := quant.Lookup(quant.F32)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range quant.All() {
		t.Run(f.Name, func(t *testing.T) {
			blocks, values := "quantize.input", "quantize.input"
			if f.Type != quant.F32 {
				blocks, values = f.Name+".blocks", f.Name+".float32"
			}
			raw, exact := golden(blocks), golden(values)
			want := make([]float32, len(exact)/4)
			f32.Dequantize(want, exact)
			n := len(raw) / f.BlockBytes
			s := &tensors{}
			for _, rows := range []int{1, n, n / 3} {
				s.add(fmt.Sprintf("%d rows", rows), f, rows, n/rows, raw)
			}
			w := s.load(t, dev)
			for i, x := range s.declared {
				got, err := cuda.Dequantized(w, i, 0, x.Rows*x.Cols)
				if err != nil {
					t.Fatal(err)
				}
				sameBits(t, x.Name, got, want[:len(got)])
			}
		})
	}
}

// What the kernels read is where the layout says: every byte of a tensor, found
// by the Go mirror of locate, and zeros wherever none is.
func TestPlanesHoldTheFile(t *testing.T) {
	dev := open(t, cuda.Config{})
	t.Cleanup(func() { dev.Close() })
	for _, f := range quant.All() {
		t.Run(f.Name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(22, uint64(f.Type)))
			s := &tensors{}
			for _, shape := range odd {
				raw := make([]byte, shape[0]*shape[1]*f.BlockBytes)
				for i := range raw {
					raw[i] = byte(rng.Uint32()) | 1 // nothing is 0 by chance
				}
				s.add(fmt.Sprint(shape), f, shape[0], shape[1], raw)
			}
			w := s.load(t, dev)
			for i, x := range s.declared {
				memory, err := cuda.Memory(w, i)
				if err != nil {
					t.Fatal(err)
				}
				raw, rowBytes := s.bytes(i), x.Bytes()/x.Rows
				for row := range x.Rows {
					for at := range rowBytes {
						b := &memory[cuda.Located(w, i, row, at)]
						if *b != raw[row*rowBytes+at] {
							t.Fatalf("%s: byte %d of row %d is %#x, want %#x", x.Name, at, row, *b, raw[row*rowBytes+at])
						}
						*b = 0
					}
				}
				if at := bytes.IndexFunc(memory, func(r rune) bool { return r != 0 }); at >= 0 {
					t.Errorf("%s: byte %d of its memory is not zero and nobody's", x.Name, at)
				}
			}
		})
	}
}
