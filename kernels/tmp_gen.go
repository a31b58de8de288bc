package kernels

type Segment struct {
	Start uint32
	Bytes uint32
	Plane uint32
}

type Plane struct {
	Offset uint64
	Unit   uint32
	Units  uint32
	Piece  uint32
	Shift  uint32
}

type Layout struct {
	Base       uint64
	Size       uint64
	RowBytes   uint32
	BlockBytes uint32
	BlockSize  uint32
	Format     uint32
	Segments   uint32
	Cols       uint32
	Segment    [4]Segment
	Plane      [4]Plane
}

type RepackParams struct {
	Layout Layout
	From   uint64
	First  uint64
	Bytes  uint64
}

type HashParams struct {
	Layout Layout
	Sum    uint64
}

type DequantizeParams struct {
	Layout Layout
	Out    uint64
	First  uint64
	Count  uint64
}

type EmbedParams struct {
	Table  Layout
	Tokens uint64
	Out    uint64
	Rows   uint32
	_      [4]byte
}

type AnglesParams struct {
	Freq      uint64
	Positions uint64
	Out       uint64
	Rows      uint32
	Pairs     uint32
}

type PrepareParams struct {
	In     uint64
	Pick   uint64
	Gain   uint64
	Half   uint64
	Sums   uint64
	Scale  uint64
	Wide   uint64
	Rows   uint32
	Width  uint32
	Stride uint32
	Eps    float32
}

type Matrix struct {
	Plane [4]uint64
	Bias  uint64
	Out   uint64
	Outs  uint32
	Tiles uint32
}

type ProjectParams struct {
	Matrix   [3]Matrix
	In       uint64
	Pick     uint64
	Gain     uint64
	Half     uint64
	Sums     uint64
	Scale    uint64
	Residual uint64
	Matrices uint32
	Rows     uint32
	Width    uint32
	Stride   uint32
	Steps    uint32
	Segments uint32
	Gated    uint32
	Tiles    uint32
	Eps      float32
	_        [4]byte
}

type ProjectF32Params struct {
	Weight   uint64
	Bias     uint64
	In       uint64
	Residual uint64
	Out      uint64
	Rows     uint32
	Cols     uint32
	Outs     uint32
	_        [4]byte
}

type GateParams struct {
	Gate  uint64
	Up    uint64
	Out   uint64
	Count uint64
}

type CacheLayer struct {
	Keys      uint64
	Values    uint64
	KvHeads   uint32
	HeadDim   uint32
	BlockSize uint32
	Padding   uint32
}

type AppendParams struct {
	Cache     CacheLayer
	Q         uint64
	K         uint64
	V         uint64
	QOut      uint64
	KOut      uint64
	Angles    uint64
	Positions uint64
	Tables    uint64
	TableOf   uint64
	Rows      uint32
	Heads     uint32
	Dims      uint32
	Halves    uint32
}

type AttendParams struct {
	Cache     CacheLayer
	Q         uint64
	Out       uint64
	Positions uint64
	Tables    uint64
	TableOf   uint64
	Partial   uint64
	PartialMl uint64
	Rows      uint32
	Heads     uint32
	Splits    uint32
	Scale     float32
	K         uint64
	V         uint64
	Angles    uint64
	Dims      uint32
	Halves    uint32
}

type CombineParams struct {
	Partial   uint64
	PartialMl uint64
	Out       uint64
	Positions uint64
	Rows      uint32
	Heads     uint32
	HeadDim   uint32
	Splits    uint32
}

type Kernel struct {
	Name       string
	ParamBytes int
}
type Family struct {
	Name    string
	Kernels []Kernel
}

func Families() []Family {
	return []Family{
		{"load", []Kernel{{"hash_tensor", 192}, {"repack", 208}}},
		{"embed", []Kernel{{"angles", 32}, {"dequantize", 208}, {"embed", 208}}},
		{"prepare", []Kernel{{"gate", 32}, {"prepare", 72}}},
		{"project", []Kernel{{"few_bf16", 264}, {"few_f16", 264}, {"few_q4_0", 264}, {"few_q4_1", 264}, {"few_q4_k", 264}, {"few_q5_0", 264}, {"few_q5_1", 264}, {"few_q5_k", 264}, {"few_q6_k", 264}, {"few_q8_0", 264}, {"many_bf16", 264}, {"many_f16", 264}, {"many_q4_0", 264}, {"many_q4_1", 264}, {"many_q4_k", 264}, {"many_q5_0", 264}, {"many_q5_1", 264}, {"many_q5_k", 264}, {"many_q6_k", 264}, {"many_q8_0", 264}, {"one_bf16", 264}, {"one_f16", 264}, {"one_q4_0", 264}, {"one_q4_1", 264}, {"one_q4_k", 264}, {"one_q5_0", 264}, {"one_q5_1", 264}, {"one_q5_k", 264}, {"one_q6_k", 264}, {"one_q8_0", 264}, {"project_f32", 56}}},
		{"attention", []Kernel{{"append", 120}, {"attend_16x1", 136}, {"attend_16x4", 136}, {"attend_32x1", 136}, {"attend_32x4", 136}, {"attend_4x1", 136}, {"attend_4x4", 136}, {"attend_8x1", 136}, {"attend_8x4", 136}, {"attend_append_16x1", 136}, {"attend_append_16x4", 136}, {"attend_append_32x1", 136}, {"attend_append_32x4", 136}, {"attend_append_4x1", 136}, {"attend_append_4x4", 136}, {"attend_append_8x1", 136}, {"attend_append_8x4", 136}, {"combine", 48}}},
	}
}
