//go:build linux && (amd64 || arm64) && !nocuda

package driver

import "unsafe"

func (d *libcuda) BeginCapture(s Stream) error {
	if s == 0 {
		return d.refuse(cuStreamBeginCapture, CodeInvalidHandle, nullStream)
	}
	// Thread-local: what is forbidden during a capture is forbidden to this
	// thread only, so that another can load a model meanwhile.
	return plain(d.do(cuStreamBeginCapture, uintptr(s), captureModeThreadLocal))
}

func (d *libcuda) EndCapture(s Stream) (Graph, error) {
	if s == 0 {
		return 0, d.refuse(cuStreamEndCapture, CodeInvalidHandle, nullStream)
	}
	var g Graph
	if e := d.do(cuStreamEndCapture, uintptr(s), uintptr(unsafe.Pointer(&g))); e != nil {
		return 0, e
	}
	return g, nil
}

func (d *libcuda) Instantiate(g Graph) (GraphExec, error) {
	if g == 0 {
		return 0, d.refuse(cuGraphInstantiate, CodeInvalidHandle, nullHandle)
	}
	var x GraphExec
	if e := d.do(cuGraphInstantiate, uintptr(unsafe.Pointer(&x)), uintptr(g), 0); e != nil {
		return 0, e
	}
	return x, nil
}

// What CUgraphExecUpdateResult says.
var updateResults = [...]string{
	1: "invalid value",
	2: "the topology changed",
	3: "a node's type changed",
	4: "a node's function changed",
	5: "a node's parameters changed in an unsupported way",
	6: "something about a node is not supported",
	7: "a node's function changed in an unsupported way",
	8: "a node's attributes changed in an unsupported way",
}

func (d *libcuda) UpdateGraph(x GraphExec, g Graph) error {
	if x == 0 || g == 0 {
		return d.refuse(cuGraphExecUpdate, CodeInvalidHandle, nullHandle)
	}
	var r updateResult
	if e := d.do(cuGraphExecUpdate, uintptr(x), uintptr(g), uintptr(unsafe.Pointer(&r))); e != nil {
		if 0 < r.result && int(r.result) < len(updateResults) {
			return detail(e, "%s", updateResults[r.result])
		}
		return detail(e, "result %d", r.result)
	}
	return nil
}

func (d *libcuda) LaunchGraph(x GraphExec, s Stream) error {
	if x == 0 || s == 0 {
		return d.refuse(cuGraphLaunch, CodeInvalidHandle, nullHandle)
	}
	return plain(d.step(cuGraphLaunch, uintptr(x), uintptr(s), 0, 0))
}

func (d *libcuda) DestroyGraph(g Graph) error         { return d.with(cuGraphDestroy, uintptr(g)) }
func (d *libcuda) DestroyGraphExec(x GraphExec) error { return d.with(cuGraphExecDestroy, uintptr(x)) }
