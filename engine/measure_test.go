package engine_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"kigo/engine"
	"kigo/engine/device"
	"kigo/engine/device/cpu"
)

// profiling is a processor that can tell what operators cost: it runs the step, which
// writes to its KV blocks, and makes a time up.
type profiling struct {
	*cpu.Device
	err  error // that Profile returns
	seen []device.Step
}

func (d *profiling) Compile(p *device.Program, w device.Weights, c device.Cache, o device.CompileOptions) (device.Executable, error) {
	x, err := d.Device.Compile(p, w, c, o)
	return &profilingExecutable{x, d}, err
}

type profilingExecutable struct {
	device.Executable
	d *profiling
}

func (x *profilingExecutable) Profile(step *device.Step, times int) ([]device.PartTime, error) {
	x.d.seen = append(x.d.seen, *step)
	if x.d.err != nil {
		return nil, x.d.err
	}
	_, err := x.Run(step)
	return []device.PartTime{{Name: "all", Ops: []int{0}, Time: time.Duration(times)}}, err
}

func onProfiling(t *testing.T) (*engine.Engine, *profiling) {
	t.Helper()
	on, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	d := &profiling{Device: on}
	e, err := engine.NewOn(engine.Config{MaxContext: 256, MaxConcurrent: 2, StreamBuffer: 4, SlowReader: time.Hour}, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	loadTiny(t, e, "tiny", 1, false)
	return e, d
}

func TestProfile(t *testing.T) {
	e, d := onProfiling(t)
	p, err := e.Profile(t.Context(), "tiny", 100, 1, 7)
	want := &engine.StepProfile{Start: 99, Rows: 1, Parts: []device.PartTime{{Name: "all", Ops: []int{0}, Time: 7}}}
	if err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("%+v, %v; want %+v", p, err, want)
	}
	// A prompt's last rows, as many as a step has.
	most := d.Info().StepRows
	if p, err = e.Profile(t.Context(), "", 200, 200, 1); err != nil || p.Rows != min(most, 200) || p.Start != 200-p.Rows {
		t.Errorf("%+v, %v", p, err)
	}
	if q := d.seen[1].Seqs[0]; len(q.Blocks) != 13 || len(d.seen[1].Logits) != 1 {
		t.Errorf("step %+v", d.seen[1])
	}
	if s := e.Status(); s.KVUsed != 0 {
		t.Errorf("%d KV blocks are in use", s.KVUsed)
	}
	for _, bad := range [][2]int{{100, 0}, {100, 101}, {257, 1}, {0, 0}} {
		if _, err := e.Profile(t.Context(), "", bad[0], bad[1], 1); err == nil {
			t.Errorf("%d rows of %d tokens were taken", bad[1], bad[0])
		}
	}
	if _, err := e.Profile(t.Context(), "other", 1, 1, 1); !errors.Is(err, engine.ErrNoModel) {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.Profile(ended, "", 1, 1, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A profile that fails leaves the KV blocks free, and one that fits them in beside a
// request does not change what that says.
func TestProfileBesideARequest(t *testing.T) {
	e, d := onProfiling(t)
	alone := run(t, e, greedy("a frog jumps", 60))

	// Nobody reads, so that it stands still after four tokens.
	stream := waiting(t, e, greedy("a frog jumps", 60))
	if _, err := e.Profile(t.Context(), "", 160, 1, 1); err != nil {
		t.Error(err)
	}
	d.err = errors.New("scripted")
	if _, err := e.Profile(t.Context(), "", 160, 1, 1); !errors.Is(err, d.err) {
		t.Error(err)
	}
	beside, err := collect(t, stream)
	if err != nil || beside.text != alone.text || !slices.Equal(beside.ids, alone.ids) {
		t.Errorf("beside a profile %q, %v; alone %q", beside.text, err, alone.text)
	}
	// With all blocks in somebody's hands there is no room.
	settled(t, e)
	var holders []*engine.Stream
	for i := range 2 {
		r := greedy("", 6)
		r.Tokens = slices.Repeat([]int32{int32(5 + i)}, 250)
		holders = append(holders, waiting(t, e, r))
	}
	d.err = nil
	if _, err := e.Profile(t.Context(), "", 200, 1, 1); !errors.Is(err, engine.ErrDoesNotFit) {
		t.Error(err)
	}
	for _, s := range holders {
		s.Cancel()
	}
	settled(t, e)
	if _, err := e.Profile(t.Context(), "", 256, 1, 1); err != nil {
		t.Error(err)
	}
	d.err = device.ErrLost
	if _, err := e.Profile(t.Context(), "", 1, 1, 1); !errors.Is(err, engine.ErrDeviceFault) {
		t.Error(err)
	}
	if e.Status().State != engine.StateFailed {
		t.Error("a lost device goes on")
	}
}

// waiting submits a request and waits until it has generated as much as its stream
// holds.
func waiting(t *testing.T, e *engine.Engine, r engine.Request) *engine.Stream {
	t.Helper()
	want := e.Status().Tokens + 4
	s := submit(t, e, r)
	for e.Status().Tokens < want {
		time.Sleep(time.Millisecond)
	}
	return s
}

func TestNotMeasured(t *testing.T) {
	e := loaded(t, engine.Config{Device: "cpu"})
	if _, err := e.Profile(t.Context(), "", 10, 1, 1); !errors.Is(err, engine.ErrNotSupported) {
		t.Errorf("a processor's profile: %v", err)
	}
	s, _ := scriptedEngine(t, engine.Config{}, func(string, int) error { return nil })
	defer s.Close()
	if _, err := s.Rates(t.Context()); !errors.Is(err, engine.ErrNotSupported) {
		t.Errorf("rates of a device without any: %v", err)
	}
}
