package device

import (
	"context"
	"time"
)

// Rate is what a processor reached in a measurement: the best of several passes.
type Rate struct {
	PerSecond float64 // bytes, or floating-point operations
	Method    string  // what was done, in a few words: to be printed with the figure
}

// Meter is a Device that can measure what its processor is capable of, whatever
// is computed: what a program reaches is compared with that. A measurement takes
// memory of its own and, for a fraction of a second, the whole device; ctx ends
// it between two passes. ErrOutOfMemory when there is no room.
type Meter interface {
	// CopyRate is the bytes of the device's memory that can be moved in a second.
	CopyRate(ctx context.Context) (Rate, error)

	// UploadRate is the bytes that can be brought from the host's memory into
	// the device's in a second.
	UploadRate(ctx context.Context) (Rate, error)

	// MatrixRate is the floating-point operations of matrix products in a second,
	// by the instructions that the device's operators use; a multiplication with
	// its addition is two.
	MatrixRate(ctx context.Context) (Rate, error)
}

// Profiler is an Executable that can say what the operators of a step cost.
type Profiler interface {
	// Profile measures a step that Run takes, kind of operator by kind, each
	// so many times. What it leaves in the step's KV blocks is meaningless.
	Profile(step *Step, times int) ([]PartTime, error)
}

// PartTime is what one kind of operator costs in a step.
type PartTime struct {
	Name string        // of the stage that it makes, without the layer: "q", "attn"
	Ops  []int         // which operators of the program these are
	Time time.Duration // of all of them, one after another on a busy device
}
