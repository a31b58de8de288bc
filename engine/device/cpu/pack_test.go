package cpu

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"kigo/engine/device"
	"kigo/engine/quant"
)

// Every byte of every format has one place in a panel, and comes back from it.
func TestPanelsHoldTheFilesBytes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, f := range quant.All() {
		sum := 0
		for _, x := range fields[f.Type] {
			sum += x.size
		}
		if sum != f.BlockBytes {
			t.Errorf("%s: the fields have %d bytes of a block's %d", f.Name, sum, f.BlockBytes)
		}
		for _, rows := range []int{2, 15, 16, 17, 40} {
			for _, blocks := range []int{1, 2, 5} {
				tensor := device.Tensor{Name: "t", Format: f, Rows: rows, Cols: blocks * f.BlockSize}
				file := make([]byte, tensor.Bytes())
				for i := range file {
					file[i] = byte(rng.Uint32())
				}
				p := newPacking(f, tensor.Cols)
				panels := bytes.Repeat([]byte{0xee}, panelsOf(rows)*p.panelBytes())
				copy(panels, file)
				packMatrix(&p, panels, panels[:len(file)]) // in place, as after a load
				for i := range panelsOf(rows) {            // a panel at once, and its rows one by one
					want := file[i*p.panelBytes() : min((i+1)*p.panelBytes(), len(file))]
					got := make([]byte, len(want))
					p.unpack(got, panels[i*p.panelBytes():])
					if !bytes.Equal(got, want) {
						t.Fatalf("%s: panel %d of %d x %d blocks is not the file's", f.Name, i, rows, blocks)
					}
				}
				row := make([]byte, p.rowBytes)
				for r := range rows {
					p.row(row, panels[r/panelRows*p.panelBytes():][:p.panelBytes()], r%panelRows)
					if !bytes.Equal(row, file[r*p.rowBytes:][:p.rowBytes]) {
						t.Fatalf("%s: row %d of %d x %d blocks is not the file's", f.Name, r, rows, blocks)
					}
				}
				for r := rows; r < panelsOf(rows)*panelRows; r++ {
					p.row(row, panels[r/panelRows*p.panelBytes():][:p.panelBytes()], r%panelRows)
					if !bytes.Equal(row, make([]byte, len(row))) {
						t.Fatalf("%s: row %d of %d is not zero", f.Name, r, rows)
					}
				}
			}
		}
	}
}

// BenchmarkPack rearranges a matrix, and hashes it, on one core.
func BenchmarkPack(b *testing.B) {
	for _, f := range quant.All() {
		tensors := []device.Tensor{{Name: "t", Format: f, Rows: 512, Cols: 1536}}
		n := tensors[0].Bytes()
		p := newPacking(f, 1536)
		panels := make([]byte, n)
		b.Run(f.Name+"/pack", func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				packMatrix(&p, panels, panels)
			}
		})
		b.Run(f.Name+"/hash", func(b *testing.B) {
			d, err := New(Config{Threads: 1})
			if err != nil {
				b.Fatal(err)
			}
			defer d.Close()
			w, err := d.NewWeights(tensors)
			if err != nil {
				b.Fatal(err)
			}
			defer w.Close()
			b.SetBytes(int64(n))
			for b.Loop() {
				if _, err := w.Hash(0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Bytes that came after the hash was taken would land between the panels' planes.
func TestUploadAfterTheHashIsRefused(t *testing.T) {
	d, err := New(Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := quant.Lookup(quant.Q8_0)
	if err != nil {
		t.Fatal(err)
	}
	w, err := d.NewWeights([]device.Tensor{{Name: "m", Format: f, Rows: 20, Cols: 64}, {Name: "v", Format: f, Rows: 1, Cols: 64}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	up, err := w.NewUploader()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if _, err := up.Buffer(i, 0, 68); err != nil {
			t.Errorf("tensor %d: %v", i, err)
		}
		if _, err := w.Hash(i); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := up.Buffer(0, 0, 68); err == nil {
		t.Error("a buffer of a matrix after its hash was given")
	}
}
