package cuda

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"kigo/engine/device"
)

// Profile implements device.Profiler: the operators of one kind, of all layers,
// run again and again as a graph, between two events. In a step they overlap with
// their neighbours, so the parts add up to somewhat more than the step.
func (x *executable) Profile(step *device.Step, times int) ([]device.PartTime, error) {
	if times < 1 {
		return nil, fmt.Errorf("profile: %d times", times)
	}
	if x.watched() {
		return nil, fmt.Errorf("%w: a profile of steps whose every stage is looked at", device.ErrNotSupported)
	}
	x.under = 0 // about those before it nobody will ask; on the device they end first
	if err := x.Begin(step); err != nil {
		return nil, err
	}
	if _, err := x.Largest(); err != nil {
		return nil, err
	}
	unbind, err := x.dev.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	shape := x.shapeOf(step)
	var order []string
	kinds := map[string][]int{}
	for i := range x.ops {
		name := kindOf(x.prog, x.prog.Ops[i])
		if kinds[name] == nil {
			order = append(order, name)
		}
		kinds[name] = append(kinds[name], i)
	}
	var all []device.PartTime
	for _, name := range order {
		var ops []operation
		for _, i := range kinds[name] {
			ops = append(ops, x.ops[i])
		}
		took, err := x.timeOf(ops, &shape, times)
		if err != nil {
			return nil, err
		}
		all = append(all, device.PartTime{Name: name, Ops: kinds[name], Time: took})
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

// timeOf is how long the operations take in a row, once.
func (x *executable) timeOf(ops []operation, s *stepShape, times int) (took time.Duration, err error) {
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
	return d / time.Duration(times), err
}
