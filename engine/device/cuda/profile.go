package cuda

import (
	"errors"
	"strings"

	"kigo/engine/device"
)

// PartTime is what one kind of operator costs in a step.
type PartTime struct {
	Name  string  // of the stage that it makes, without the layer: "q", "attn"
	Count int     // in a step
	Each  float64 // microseconds, one after another on a busy GPU
}

// Profile measures what a step's operators cost, kind by kind: those of one kind,
// of all layers, run again and again as a graph. In a step they overlap with
// their neighbours, so the parts add up to somewhat more than the step. The step
// must be one that Run takes; what it leaves in the KV cache is meaningless.
func (x *executable) Profile(step *device.Step, times int) ([]PartTime, error) {
	if err := x.Begin(step); err != nil {
		return nil, err
	}
	unbind, err := x.dev.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	shape := shapeOf(step)
	var order []string
	kinds := map[string][]operation{}
	for i, op := range x.ops {
		name := kindOf(x.prog, x.prog.Ops[i])
		if kinds[name] == nil {
			order = append(order, name)
		}
		kinds[name] = append(kinds[name], op)
	}
	var all []PartTime
	for _, name := range order {
		us, err := x.timeOf(kinds[name], &shape, times)
		if err != nil {
			return nil, err
		}
		all = append(all, PartTime{Name: name, Count: len(kinds[name]), Each: us / float64(len(kinds[name]))})
	}
	return all, nil
}

// kindOf names an operator by its result's stage.
func kindOf(p *device.Program, op device.Op) string {
	_, writes := operands(op)
	if len(writes) == 0 {
		return "logits"
	}
	stage := p.Values[writes[0]].Stage
	return stage[strings.LastIndexByte(stage, '.')+1:]
}

// timeOf is how long the operations take in a row, in microseconds.
func (x *executable) timeOf(ops []operation, s *stepShape, times int) (us float64, err error) {
	drv, stream := x.dev.drv, x.dev.stream
	all := x.ops
	angles := x.angles
	x.ops, x.angles = ops, nil
	g, err := x.capture(s)
	x.ops, x.angles = all, angles
	if err != nil {
		return 0, x.dev.wrap(err, "profile")
	}
	defer func() { err = errors.Join(err, drv.DestroyGraphExec(g)) }()
	from, err := drv.NewEvent(true)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, drv.DestroyEvent(from)) }()
	to, err := drv.NewEvent(true)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, drv.DestroyEvent(to)) }()
	launch := func(n int) error {
		for range n {
			if err := drv.LaunchGraph(g, stream); err != nil {
				return err
			}
		}
		return nil
	}
	if err := errors.Join(launch(3), drv.Record(from, stream), launch(times), drv.Record(to, stream), drv.SyncStream(stream)); err != nil {
		return 0, x.dev.wrap(err, "profile")
	}
	d, err := drv.Elapsed(from, to)
	return float64(d.Nanoseconds()) / 1e3 / float64(times), err
}
