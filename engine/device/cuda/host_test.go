package cuda_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/device/cuda"
	"kigo/engine/device/devicetest"
	"kigo/engine/device/scripted"
)

// The kernels that draw tokens are right without a GPU: compiled for this processor,
// where the threads of a block take turns, they pass the suite that devices pass.
// What only a GPU has, many blocks at a time, is left to TestConformance.
func TestDrawKernelsOnTheHost(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short")
	}
	kernels := newHostKernels(t)
	devicetest.Choose(t, func(t *testing.T) device.Device {
		d, err := cpu.New(cpu.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return &hostDevice{scripted.NewChoosing(d), kernels}
	})
}

// hostKernels is testdata/host.cc, running.
type hostKernels struct {
	in  io.Writer
	out io.Reader
}

func newHostKernels(t *testing.T) *hostKernels {
	t.Helper()
	gcc, err := exec.LookPath("g++")
	if err != nil {
		t.Skip("no g++")
	}
	// Headers of the GPU's instructions have no place on a processor.
	dir := t.TempDir()
	for name, from := range map[string]string{
		"choose.cu": "../../../kernels/choose.cu", "weight.cuh": "../../../kernels/weight.cuh", "params.h": "../../../kernels/params.h",
		"host.cc": "testdata/host.cc", "device.cuh": os.DevNull,
	} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Skipf("no sources: %v", err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(dir, "host")
	// Sums and products are what they say, and memory is seen as different types.
	if out, err := exec.Command(gcc, "-std=c++17", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-I", dir, "-o", program, filepath.Join(dir, "host.cc")).CombinedOutput(); err != nil {
		t.Fatalf("g++: %v\n%s", err, out)
	}
	cmd := exec.Command(program)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	return &hostKernels{in, bufio.NewReader(out)}
}

// hostDevice is a CPU whose tokens are drawn by those kernels.
type hostDevice struct {
	device.Device
	kernels *hostKernels
}

func (d *hostDevice) Compile(p *device.Program, w device.Weights, c device.Cache, opt device.CompileOptions) (device.Executable, error) {
	x, err := d.Device.Compile(p, w, c, opt)
	if err != nil {
		return nil, err
	}
	return &hostExec{Chooser: x.(device.Chooser), Executable: x, kernels: d.kernels, vocab: p.Vocab}, nil
}

type hostExec struct {
	device.Chooser
	device.Executable
	kernels *hostKernels
	vocab   int
	rows    int // of the step that Largest gave last
	closed  bool
}

func (x *hostExec) Close() error {
	x.closed = true
	return x.Executable.Close()
}

func (x *hostExec) Begin(step *device.Step) error {
	if x.closed {
		return device.ErrClosed
	}
	return x.Chooser.Begin(step)
}

func (x *hostExec) Largest() ([]device.Ranked, error) {
	if x.closed {
		return nil, device.ErrClosed
	}
	all, err := x.Chooser.Largest()
	x.rows = len(all)
	return all, err
}

func (x *hostExec) Fetch(rows []int) ([]float32, error) {
	if x.closed {
		return nil, device.ErrClosed
	}
	if _, err := x.Chooser.Fetch(nil); err != nil {
		return nil, err
	}
	for _, r := range rows {
		if r < 0 || r >= x.rows {
			return nil, errors.New("no such row")
		}
	}
	return x.Chooser.Fetch(rows)
}

func (x *hostExec) Draw(wants []device.Draw) ([]int32, error) {
	if x.closed {
		return nil, device.ErrClosed
	}
	rows := x.rows
	all := make([]int, rows)
	for i := range all {
		all[i] = i
	}
	logits, err := x.Fetch(all)
	if err != nil {
		return nil, err
	}
	if err := cuda.CheckDraws(wants, rows, x.vocab); err != nil {
		return nil, err
	}
	ids := slices.Repeat([]int32{-1}, len(wants))
	const area = 1 << 40
	in, fits, largest, cut, sum := cuda.DrawInput(wants, x.vocab, area)
	if len(fits) == 0 {
		return ids, nil
	}
	number := func(b bool) uint32 {
		if b {
			return 1
		}
		return 0
	}
	head := struct {
		Area                                              uint64
		Rows, Held, Count, Share, Used, Largest, Cut, Sum uint32
	}{area, uint32(len(fits)), uint32(rows), uint32(x.vocab), uint32(1 + len(fits)%3), uint32(len(in)), number(largest), number(cut), number(sum)}
	out := make([]int32, len(fits)+1)
	if err := errors.Join(
		binary.Write(x.kernels.in, binary.LittleEndian, &head),
		binary.Write(x.kernels.in, binary.LittleEndian, in),
		binary.Write(x.kernels.in, binary.LittleEndian, logits),
		binary.Read(x.kernels.out, binary.LittleEndian, out),
	); err != nil {
		return nil, err
	}
	if out[len(fits)] == 0 {
		return nil, errors.New("the logits are not as before")
	}
	for i, f := range fits {
		ids[f] = out[i]
	}
	return ids, nil
}
