// Package device is the interface that the forward pass is written against.
//
// A forward pass records itself once as a [Program]: a list of operators over
// named values and weights. A device compiles the program for weights and a KV
// cache that live on it and then runs it, one [Step] at a time. What a Program
// and a Step say is inert data; Weights, Cache and Executable are objects on
// the device, each with one owner, who closes it.
package device

import (
	"errors"
	"fmt"

	"kigo/engine/quant"
	"kigo/engine/sample"
)

// What a device can refuse, to be matched with errors.Is.
var (
	ErrClosed       = errors.New("device object is closed")
	ErrOutOfMemory  = errors.New("not enough memory")
	ErrNotSupported = errors.New("not supported by this device")
	ErrBadStep      = errors.New("invalid step")
	ErrBadProgram   = errors.New("invalid program")

	// ErrPassed says that logits are asked for that are gone, or not there yet: of a
	// step that Largest was not asked about, or behind which another one has begun.
	ErrPassed = errors.New("not the logits of the latest step")

	// ErrLost is fatal: nothing works on the device any more, and nothing is
	// called on it any more. A fault that leaves the context dead is one.
	ErrLost = errors.New("nothing works on the device any more")

	// ErrGone is an ErrLost, too: the device itself has vanished, and a new
	// process on this machine would not find it either.
	ErrGone = fmt.Errorf("%w: it has vanished", ErrLost)
)

// Device makes objects that live in one processor's memory. A Device is used
// from one goroutine at a time, except where a method says otherwise.
type Device interface {
	// Info is cheap, waits for nothing and may be called from any goroutine.
	Info() Info

	// CacheBlockBytes is the memory that one KV block of the shape takes.
	CacheBlockBytes(shape CacheShape) uint64

	// NewWeights reserves memory for the tensors, in one allocation. The
	// caller owns the result. Safe to call while an Executable runs.
	NewWeights(tensors []Tensor) (Weights, error)

	// NewCache makes a cache that can have up to so many KV blocks of the given
	// shape; Cache.Map takes their memory. A device may want BlockSize to be a
	// multiple of 16, and refuses others with ErrNotSupported. The caller owns
	// the result.
	NewCache(shape CacheShape, blocks int) (Cache, error)

	// Compile prepares a program. The executable borrows w and c, which must
	// outlive it.
	Compile(p *Program, w Weights, c Cache, opt CompileOptions) (Executable, error)

	// Close frees the device. Everything made by it must be closed first.
	Close() error
}

// Info describes a device. Memory figures are in bytes; 0 means unknown.
type Info struct {
	Kind        string // "cpu" or "cuda"
	Name        string // the processor's own name
	Driver      string // what drives it, with its version; empty for a CPU
	Threads     int
	MemoryTotal uint64
	MemoryFree  uint64

	// StepRows is how many rows of a prompt a step should have at most: enough
	// to keep the device busy, few enough that others do not wait long.
	StepRows int
}

// Tensor declares a weight: a row-major matrix of Rows x Cols elements in the
// file's own format. A vector has one row.
type Tensor struct {
	Name   string // as in the model's file: "blk.0.attn_q.weight"
	Format *quant.Format
	Rows   int
	Cols   int
}

// Bytes is the tensor's size in its format.
func (t *Tensor) Bytes() int {
	return t.Rows * (t.Cols / t.Format.BlockSize) * t.Format.BlockBytes
}

// Weights are a model's tensors on a device.
type Weights interface {
	// NewUploader starts an upload. Several may run at once, each in a
	// goroutine of its own, on different parts. A tensor's upload ends before
	// its hash is taken or a program compiled: after that its bytes may have
	// another order.
	NewUploader() (Uploader, error)

	// Hash computes the 64-bit hash (see [Hash]) of a tensor's bytes from
	// the form in which the device reads them. Safe for concurrent use.
	Hash(tensor int) (uint64, error)

	Bytes() uint64
	Close() error
}

// MaxPiece is how many bytes an upload moves at once, at most. Pieces begin at
// multiples of 8 bytes and, but for a tensor's last, are such multiples long.
const MaxPiece = 4 << 20

// Uploader moves bytes of tensors to the device. Not for concurrent use.
type Uploader interface {
	// Buffer returns n bytes, at most MaxPiece, to be filled with the bytes of
	// a tensor from byte off on. It may wait for earlier uploads. The buffer
	// is valid until Commit.
	Buffer(tensor, off, n int) ([]byte, error)

	// Commit sends the buffer on its way; it does not wait for the arrival.
	Commit() error

	// Close waits until everything committed has arrived.
	Close() error
}

// CacheShape is the shape of a KV cache: for every token of every layer one
// key and one value of KVHeads x HeadDim elements, in blocks of BlockSize
// tokens.
type CacheShape struct {
	Layers    int
	KVHeads   int
	HeadDim   int
	BlockSize int // tokens in a block
}

// Cache is the memory of the KV blocks, which comes and goes as they are wanted.
// Which block belongs to whom is the business of package kv; the device sees
// block numbers in a Step, and refuses one that names a block without memory.
type Cache interface {
	Shape() CacheShape

	// Blocks is how many there can be. Mapped says whether there is memory for one.
	Blocks() int
	Mapped(block int) bool

	// Chunk is the neighbours of a block, from one on and before another, whose
	// memory comes and goes with its own.
	Chunk(block int) (from, to int)

	// Map takes the memory of a block's chunk, if it is not there. What is in the
	// blocks is undefined then. ErrOutOfMemory: the device has no more.
	Map(block int) error

	// Unmap gives the memory of a block's chunk back, unless the device cannot do
	// without it, and waits for a step that is under way. Nothing changes in other
	// blocks.
	Unmap(block int) error

	// Bytes is the memory that is taken, Reserved the most that it can be. A device
	// whose memory is taken as it is written to counts it from Map on.
	Bytes() uint64
	Reserved() uint64

	Close() error
}

// WholeCache is NewCache with the memory of all blocks.
func WholeCache(d Device, shape CacheShape, blocks int) (Cache, error) {
	c, err := d.NewCache(shape, blocks)
	if err != nil {
		return nil, err
	}
	for b := 0; b < blocks; _, b = c.Chunk(b) {
		if err := c.Map(b); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// CompileOptions are fixed for an executable's life.
type CompileOptions struct {
	MaxRows int // rows that a step may have

	// Tap, when set, is called during Run with every stage of every step, in
	// order: the operator's result, rows x width, row-major, valid only
	// during the call. It makes Run slow; it serves verification.
	Tap func(stage string, rows, width int, data []float32)
}

// Executable is a compiled program. Not for concurrent use.
type Executable interface {
	// Run performs one step and returns the logits of the rows that the step
	// asked for, len(step.Logits) x vocabulary, row-major, valid until the
	// next Run. Keys and values of all rows are in the cache afterwards.
	// A step that breaks the rules of Step is refused with ErrBadStep before
	// anything is changed. Steps that were begun end first, and nobody can ask about
	// them any more.
	Run(step *Step) ([]float32, error)

	// ScratchBytes is the memory taken for activations.
	ScratchBytes() uint64

	Close() error
}

// Chooser is an Executable that chooses among the logits where they are, so that
// of most rows a few numbers travel. Not every device has something to gain by it.
//
// A step may begin while the one before it is under way, so that the device does not wait
// for whoever looks at its results. Steps run one after another, in the order in which
// they began.
type Chooser interface {
	// Begin starts a step, by the rules of Run, and does not wait for its end.
	// The step is the caller's again at once. Two steps at most are under way, which is
	// to say that Largest was not asked about them; a third is refused with ErrBadStep.
	//
	// Its draws are made as Draw makes them, with the step; Drawn gives their results.
	//
	// A token -1-r stands for the one that the step begun before has of row r, counted
	// among the rows that it asked for, whether Largest was asked about that step or not:
	// the one drawn for the row if there is one, and else that of the largest logit, as
	// Largest gives it. What it stands for where no logit of the row is a number is
	// undefined, but is one of the vocabulary. After Run there is no such step.
	Begin(step *Step) error

	// Largest waits for the end of the step that began first of those under way, and
	// gives the largest logit of each row that it asked for; of equal ones that of the
	// lowest id. A NaN among the logits may be taken for the largest or passed over. The
	// slice is valid until the next call of Largest, Begin or Run. With an error, too, the
	// step is under way no more. Without a step under way it is ErrPassed.
	Largest() ([]Ranked, error)

	// Drawn gives the tokens that the step was begun to draw that Largest gave last, one
	// for each of Step.Draws, by the rules of Draw: -1 where one cannot be told. The slice
	// is valid as long as that of Largest.
	Drawn() []int32

	// Draw gives the tokens that sample.Sampler.Sample draws, one for each of wants, of
	// which no two may ask for one row. A token is -1 when it cannot be told for less
	// than all of the row's logits cost, or there is none, or a logit is not a number;
	// Fetch does then. The slice is valid until the next call of any method.
	//
	// Draw and Fetch are about the step that Largest gave last. Its logits are gone when
	// the next one has begun: while a step is under way both are refused with ErrPassed.
	Draw(wants []Draw) ([]int32, error)

	// Fetch gives the logits of some rows, which are counted among those that
	// the step asked for, row-major. They are valid until the next call of any
	// method.
	Fetch(rows []int) ([]float32, error)
}

// Draw asks for a token of a row, counted among those that a step asked for.
type Draw struct {
	Row int
	*sample.Plan
}

// Ranked is a token with its logit.
type Ranked struct {
	ID    int32
	Logit float32
}
