package fakedriver

import (
	"slices"

	"kigo/engine/device/cuda/driver"
)

// capture records the calls on a stream.
type capture struct {
	thread  int
	nodes   []node
	invalid bool
}

type node struct {
	name string // "Launch kernel", "CopyToHost"
	run  func() error
}

// graph is a recorded or an executable one.
type graph struct{ nodes []node }

func (f *Driver) BeginCapture(s driver.Stream) error {
	if err := f.enter("BeginCapture", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	q, err := f.stream("BeginCapture", s)
	if err != nil {
		return err
	}
	if q.capture != nil {
		return f.misused("BeginCapture", driver.CodeIllegalState, "the stream is capturing")
	}
	q.capture = &capture{thread: thread()}
	return nil
}

func (f *Driver) EndCapture(s driver.Stream) (driver.Graph, error) {
	if err := f.enter("EndCapture", context); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	q, err := f.stream("EndCapture", s)
	if err != nil {
		return 0, err
	}
	c := q.capture
	switch {
	case c == nil:
		return 0, f.misused("EndCapture", driver.CodeIllegalState, "the stream is not capturing")
	case c.thread != thread():
		return 0, f.misused("EndCapture", driver.CodeStreamCaptureWrongThread, "begun on thread %d", c.thread)
	}
	q.capture = nil
	if c.invalid {
		return 0, f.fail("EndCapture", driver.CodeStreamCaptureInvalidated, "a forbidden call spoilt it")
	}
	h := driver.Graph(f.id())
	f.graphs[h] = &graph{nodes: c.nodes}
	return h, nil
}

// graph finds one by its handle.
func (f *Driver) graph(call string, h driver.Graph) (*graph, error) {
	if g := f.graphs[h]; g != nil {
		return g, nil
	}
	return nil, f.misused(call, driver.CodeInvalidHandle, "graph %#x", uintptr(h))
}

func (f *Driver) exec(call string, h driver.GraphExec) (*graph, error) {
	if x := f.execs[h]; x != nil {
		return x, nil
	}
	return nil, f.misused(call, driver.CodeInvalidHandle, "executable graph %#x", uintptr(h))
}

func (f *Driver) Instantiate(h driver.Graph) (driver.GraphExec, error) {
	if err := f.enter("Instantiate", allowed); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	g, err := f.graph("Instantiate", h)
	if err != nil {
		return 0, err
	}
	x := driver.GraphExec(f.id())
	f.execs[x] = &graph{nodes: g.nodes}
	return x, nil
}

func (f *Driver) UpdateGraph(hx driver.GraphExec, hg driver.Graph) error {
	if err := f.enter("UpdateGraph", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	x, err := f.exec("UpdateGraph", hx)
	if err != nil {
		return err
	}
	g, err := f.graph("UpdateGraph", hg)
	if err != nil {
		return err
	}
	if !slices.EqualFunc(x.nodes, g.nodes, func(a, b node) bool { return a.name == b.name }) {
		return f.fail("UpdateGraph", driver.CodeGraphExecUpdateFailure, "the topology changed")
	}
	x.nodes = g.nodes
	return nil
}

func (f *Driver) LaunchGraph(h driver.GraphExec, s driver.Stream) error {
	if err := f.enter("LaunchGraph", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	x, err := f.exec("LaunchGraph", h)
	if err != nil {
		return err
	}
	q, err := f.stream("LaunchGraph", s)
	if err != nil {
		return err
	}
	nodes := x.nodes
	return f.put("LaunchGraph", q, "LaunchGraph", func() error {
		for _, n := range nodes {
			if err := n.run(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *Driver) DestroyGraph(h driver.Graph) error {
	if err := f.enter("DestroyGraph", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if _, err := f.graph("DestroyGraph", h); err != nil {
		return err
	}
	delete(f.graphs, h)
	return nil
}

func (f *Driver) DestroyGraphExec(h driver.GraphExec) error {
	if err := f.enter("DestroyGraphExec", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if _, err := f.exec("DestroyGraphExec", h); err != nil {
		return err
	}
	delete(f.execs, h)
	return nil
}
