package device

import "fmt"

// Value names an intermediate result: one vector of a fixed width for every
// row of a step. NoValue stands for none.
type Value int

// TensorID is a tensor's index in Program.Tensors. NoTensor stands for none.
type TensorID int

// Absent operands.
const (
	NoValue  Value    = -1
	NoTensor TensorID = -1
)

// ValueInfo declares a value. Stage is the name under which verification
// knows it, for example "blk.3.q".
type ValueInfo struct {
	Stage string
	Width int
}

// Program is a forward pass as data. The operators run in order; each value
// is written by exactly one operator before any other reads it. The last
// operator is Logits.
type Program struct {
	Tensors []Tensor
	Values  []ValueInfo
	Ops     []Op
	Cache   CacheShape // BlockSize is left 0: it is the cache's own matter
	Vocab   int        // width of the logits
}

// Op is one of Embed, Project, Rope, Attend, Logits.
type Op interface{ isOp() }

// Embed looks up one row of Table for every token.
type Embed struct {
	Table TensorID // [vocabulary x width]
	Out   Value
}

// Norm is a root-mean-square normalization: x * w / sqrt(mean(x^2) + Eps).
type Norm struct {
	Weight TensorID // [1 x width]
	Eps    float32
	Stage  string
}

// Activation is the function applied to a gate.
type Activation int

// The activations.
const (
	ActNone Activation = iota
	ActSiLU            // x * sigmoid(x)
)

// Project multiplies rows by one or more matrices: y = W·norm(x) + bias.
//
// With an activation there are exactly two matrices, gate and up, and one
// result act(gate·x) * (up·x), written to the first one's Out. Residual, when
// present, is added to the (single) result.
type Project struct {
	In       Value
	Norm     *Norm // nil: In is taken as it is
	Mats     []Matrix
	Act      Activation
	Residual Value
}

// Matrix is one weight matrix of a Project with what it writes.
type Matrix struct {
	Weight TensorID // [width of Out x width of In]
	Bias   TensorID // [1 x width of Out] or NoTensor
	Out    Value    // NoValue for the second matrix of a gated pair
}

// RopeStyle says which elements of a head are rotated together.
type RopeStyle int

// The two pairings in use.
const (
	RopeAdjacent RopeStyle = iota // (2i, 2i+1): llama's GGUF files
	RopeHalves                    // (i, i+d/2): qwen2 and most others ("neox")
)

// Rope rotates queries and keys by their positions (Su et al., RoFormer,
// arXiv 2104.09864) and appends keys and values to the KV cache of a layer.
// Pair i of a head turns by position * Base^(-2i/Dims) / Factors[i].
type Rope struct {
	Layer   int
	Q, K, V Value
	QOut    Value // rotated queries
	KOut    Value // rotated keys, as appended
	Heads   int
	KVHeads int
	HeadDim int
	Dims    int // leading elements of a head that are rotated
	Style   RopeStyle
	Base    float64
	Scale   float64  // positions are multiplied by this first (linear scaling); 1 is off
	Factors TensorID // [1 x Dims/2] F32, or NoTensor
}

// Attend computes causal attention of the rotated queries over a layer's KV
// cache; query head h reads KV head h / (Heads/KVHeads).
type Attend struct {
	Layer   int
	Q       Value
	Out     Value
	Heads   int
	KVHeads int
	HeadDim int
	Scale   float32 // applied to the scores: 1/sqrt(HeadDim) as a rule
}

// Logits projects the chosen rows onto the vocabulary.
type Logits struct {
	In     Value
	Norm   *Norm
	Weight TensorID // [vocabulary x width]
	Stage  string
}

func (*Embed) isOp()   {}
func (*Project) isOp() {}
func (*Rope) isOp()    {}
func (*Attend) isOp()  {}
func (*Logits) isOp()  {}

// Step is what one run of a program works on: rows of one or more sequences.
type Step struct {
	Tokens []int32 // one for each row, the sequences' rows after one another; for what is below 0 see Chooser
	Seqs   []SeqRows
	Logits []int // rows of which the logits are wanted, rising

	// Draws are tokens to be drawn of some of the latter, for Chooser.Begin alone.
	Draws []Draw
}

// SeqRows are the rows that one sequence has in a step.
type SeqRows struct {
	Rows   int     // at least one
	Start  int     // position of the first of them in the sequence
	Blocks []int32 // the sequence's KV blocks, in order, for Start+Rows tokens at least
}

// Check reports the first thing in the step that breaks its rules, where there is
// memory for the blocks that mapped says, and the step before it has found the largest
// logit of so many rows.
func (s *Step) Check(vocab, maxRows, blockSize int, mapped []bool, before int) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrBadStep, fmt.Sprintf(format, args...))
	}
	if len(s.Tokens) == 0 || len(s.Tokens) > maxRows {
		return bad("%d rows, want 1 to %d", len(s.Tokens), maxRows)
	}
	for i, t := range s.Tokens {
		if int(t) < -before || int(t) >= vocab {
			return bad("token %d of row %d is outside the vocabulary of %d", t, i, vocab)
		}
	}
	rows := 0
	for i, q := range s.Seqs {
		if q.Rows < 1 || q.Rows > len(s.Tokens)-rows || q.Start < 0 {
			return bad("sequence %d has %d rows from position %d", i, q.Rows, q.Start)
		}
		rows += q.Rows
		if need := (q.Start + q.Rows + blockSize - 1) / blockSize; len(q.Blocks) < need {
			return bad("sequence %d has %d blocks, needs %d", i, len(q.Blocks), need)
		}
		for _, b := range q.Blocks {
			if b < 0 || int(b) >= len(mapped) || !mapped[b] {
				return bad("sequence %d names block %d of %d, for which there may be no memory", i, b, len(mapped))
			}
		}
	}
	if rows != len(s.Tokens) {
		return bad("sequences cover %d of %d rows", rows, len(s.Tokens))
	}
	last := -1
	for _, r := range s.Logits {
		if r <= last || r >= len(s.Tokens) {
			return bad("logits of row %d after row %d, of %d rows", r, last, len(s.Tokens))
		}
		last = r
	}
	for _, w := range s.Draws {
		if w.Row < 0 || w.Row >= len(s.Logits) || w.Plan == nil {
			return bad("a token of row %d of %d", w.Row, len(s.Logits))
		}
	}
	return nil
}
