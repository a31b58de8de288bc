package cpu

func paths() []*path { return []*path{scalarPath} }

// pause tells the processor n times that this thread only waits.
//
//go:noescape
func pause(n int)
