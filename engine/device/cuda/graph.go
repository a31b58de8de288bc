package cuda

import (
	"errors"
	"math/bits"

	"kigo/engine/device/cuda/driver"
)

// graphRows is up to how many rows steps of one row a sequence are captured: there
// launching takes longer than the work, or is at least worth hiding.
const graphRows = 512

// maxGraphs bounds what is kept; a graph is made anew in less than a millisecond.
const maxGraphs = 256

// graphKey is all that the launches of a captured step depend on; everything else
// is in the device's memory. Steps take turns with where their ranks are.
type graphKey struct{ rows, splits, logits, turn int }

// recorded says whether steps of the shape are captured.
func (x *executable) recorded(s *stepShape) bool {
	return s.single && s.rows <= graphRows && s.logits <= x.logitRows && !x.watched() && !x.dev.cfg.unrecorded
}

// fill raises the numbers of rows to those of the next size of graphs: sequences
// come and go, and each number of them would want a graph of its own. What is added
// costs its time and nothing else.
func (x *executable) fill(s *stepShape) {
	all := s.logits == s.rows
	s.rows = min(sizeFor(s.rows), x.opt.MaxRows)
	s.alone = s.rows
	if all {
		s.logits = s.rows
	}
	s.logits = min(sizeFor(s.logits), s.rows, x.logitRows)
}

// sizeFor is the size of graphs for n rows: powers of two up to 16, then multiples
// of 8, 16 and 32, so that a step has at most a quarter more rows than it needs.
func sizeFor(n int) int {
	switch {
	case n < 1:
		return 0
	case n <= 16:
		return 1 << bits.Len(uint(n-1))
	case n <= 32:
		return (n + 7) / 8 * 8
	case n <= 64:
		return (n + 15) / 16 * 16
	}
	return (n + 31) / 32 * 32
}

// replay runs a step as a graph, which is captured when a step of its shape
// comes for the second time: the first may be the only one.
func (x *executable) replay(s *stepShape) error {
	key := graphKey{s.rows, s.splits, s.logits, x.turn}
	g, known := x.graphs[key]
	if g == 0 {
		if !known {
			if len(x.graphs) >= maxGraphs {
				if err := x.dev.drv.SyncStream(x.dev.stream); err != nil {
					return x.dev.wrap(err, "forget recorded steps")
				}
				if err := x.dropGraphs(); err != nil {
					return err
				}
			}
			x.graphs[key] = 0
			return x.launch(s)
		}
		var err error
		if g, err = x.capture(s); err != nil {
			return x.dev.wrap(err, "capture a step of %d rows", s.rows)
		}
		x.graphs[key] = g
	}
	return x.dev.wrap(x.dev.drv.LaunchGraph(g, x.dev.stream), "step of %d rows", s.rows)
}

func (x *executable) capture(s *stepShape) (driver.GraphExec, error) {
	drv := x.dev.drv
	if err := drv.BeginCapture(x.dev.stream); err != nil {
		return 0, err
	}
	err := x.launch(s)
	g, endErr := drv.EndCapture(x.dev.stream)
	if endErr != nil {
		return 0, errors.Join(err, endErr)
	}
	var exec driver.GraphExec
	if err == nil {
		exec, err = drv.Instantiate(g)
	}
	if err = errors.Join(err, drv.DestroyGraph(g)); err != nil && exec != 0 {
		err = errors.Join(err, drv.DestroyGraphExec(exec))
	}
	if err != nil {
		return 0, err
	}
	return exec, nil
}

// dropGraphs frees all graphs. The context must be bound and no step under way.
func (x *executable) dropGraphs() error {
	var errs []error
	for key, g := range x.graphs {
		if g != 0 {
			errs = append(errs, x.dev.drv.DestroyGraphExec(g))
		}
		delete(x.graphs, key)
	}
	return x.dev.wrap(errors.Join(errs...), "forget recorded steps")
}
