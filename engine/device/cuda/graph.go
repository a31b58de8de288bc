package cuda

import (
	"errors"

	"kigo/engine/device/cuda/driver"
)

// graphRows is up to how many rows steps of one row a sequence are captured: there
// launching takes longer than the work.
const graphRows = 64

// maxGraphs bounds what is kept; a graph is made anew in less than a millisecond.
const maxGraphs = 128

// graphKey is all that the launches of a captured step depend on; everything else
// is in the device's memory.
type graphKey struct{ rows, splits, logits int }

// replay runs a step as a graph, which is captured when a step of its shape
// comes for the second time: the first may be the only one.
func (x *executable) replay(s *stepShape) error {
	key := graphKey{s.rows, s.splits, s.logits}
	g, known := x.graphs[key]
	if g == 0 {
		if !known {
			if len(x.graphs) >= maxGraphs {
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
