// The parameters of all kernels, and what they share with Go. kernels/gen reads
// this file line by line and writes the Go mirror and the checks of sizes and
// offsets; README.md says what may stand here. It passes to each family only the
// declarations that the family names, so that a new struct compiles nothing again.
//
// Which kernel takes which struct; * stands for anything:
//
// kernel: probe ProbeParams
// kernel: repack RepackParams
// kernel: hash_tensor HashParams
// kernel: largest_scale LargestScaleParams
// kernel: dequantize DequantizeParams
// kernel: embed EmbedParams
// kernel: angles AnglesParams
// kernel: prepare PrepareParams
// kernel: one_* ProjectParams
// kernel: few_* ProjectParams
// kernel: many_* ProjectParams
// kernel: wide32_* ProjectParams
// kernel: wide64_* ProjectParams
// kernel: wide128_* ProjectParams
// kernel: project_f32 ProjectF32Params
// kernel: gate GateParams
// kernel: choose_largest ChooseParams
// kernel: draw_* DrawParams
// kernel: append AppendParams
// kernel: attend_* AttendParams
// kernel: rate_* RateParams
#pragma once

// A struct inside the parameters, with padding before its last field.
struct ProbeInner {
    uint16_t a;
    uint32_t b;
};

// What one thread of the kernel probe reports.
struct ProbeRecord {
    uint32_t block[3];   // blockIdx
    uint32_t thread[3];  // threadIdx
    uint32_t arch;       // __CUDA_ARCH__ of the code that runs: 900 for sm_90a
    uint32_t size;       // sizeof(ProbeParams) as the kernel sees it
    uint64_t address;    // ProbeParams.out
    uint64_t wide;
    int64_t signed_wide;
    float real;
    int32_t whole;
    uint8_t bytes[5];
    ProbeInner inner[2];
};

// One field of each kind, in an order that needs padding.
struct ProbeParams {
    uint8_t bytes[5];
    ProbeRecord *out;    // [count], in the order x + width * (y + height * z) of the grid's threads
    uint32_t count;      // threads beyond it write nothing
    uint64_t wide;
    int32_t whole;
    ProbeInner inner[2];
    float real;
    int64_t signed_wide;
    const void *unused;  // keeps a read-only pointer in the layout
};

// Addresses are device addresses, as numbers: most point to memory that Go code lays
// out. A "row" of a step is one token; a "row" of a weight matrix is one output
// of the projection.

// A run of bytes in every block of a format that goes to one plane.
struct Segment {
    uint32_t start; // first byte in the block
    uint32_t bytes;
    uint32_t plane;
};

// A plane holds one kind of bytes of a tensor: quants, high bits, scales. It
// is cut into units of unit bytes of a row (a power of two); the units of 16 rows
// stand together. In a plane of fragments, 32-byte units are interleaved so that
// a warp's 16-byte loads give what mma.m16n8k16 takes (see layout.cuh).
struct Plane {
    uint64_t offset; // from the tensor's base
    uint32_t unit;
    uint32_t units; // in a row
    uint32_t piece; // bytes of a lane's piece in a plane of fragments; else 0
    uint32_t shift; // log2(unit)
};

// Where a tensor's bytes are. With no segments it lies as in the file.
struct Layout {
    uint64_t base;
    uint64_t size;      // bytes in the file
    uint32_t row_bytes; // of a row in the file
    uint32_t block_bytes;
    uint32_t block_size; // values
    uint32_t format;     // GGML's type number
    uint32_t segments;
    uint32_t cols;
    Segment segment[4];
    Plane plane[4];
};

struct RepackParams {
    Layout layout;
    uint64_t from;  // bytes as in the file
    uint64_t first; // offset in the tensor of the first of them, even
    uint64_t bytes; // even
};

struct HashParams {
    Layout layout;
    uint64_t sum; // *uint64, added to
};

// The largest of two numbers of each block, which are halves; of finite ones.
struct LargestScaleParams {
    Layout layout;
    uint64_t out; // *uint32, raised to the largest magnitude's bits
    uint32_t at[2];  // where they are in a block
    float times[2];  // what each is multiplied with
};

struct DequantizeParams {
    Layout layout;
    uint64_t out; // *float, count values
    uint64_t first; // value in the tensor, row by row
    uint64_t count;
};

struct AnglesParams {
    uint64_t freq;      // *double, radians a position, pairs of them
    uint64_t positions; // *int32, by row
    uint64_t out;       // *float, rows x pairs x (cosine, sine)
    uint32_t rows;
    uint32_t pairs;
};

struct EmbedParams {
    Layout table;
    uint64_t tokens;   // *int32, one for each row of the step; -1-r: the largest logit's of row r of the step before
    uint64_t out;      // *float, rows x cols
    uint64_t previous; // *uint64, ranks of the largest logits of the step before
    uint64_t clear;    // *uint64, set to 0 for each of the rows, but of clears at most
    AnglesParams angles; // of the step's positions, by the blocks from a certain one on
    uint32_t rows;
    uint32_t clears;
    uint32_t vocab; // rows of the table
    uint32_t blocks; // that columns have
};

struct PrepareParams {
    uint64_t in;   // *float, rows of width values
    uint64_t pick; // *int32, the rows of in to take, or 0: all
    uint64_t gain; // *float, or 0: no normalization
    uint64_t half; // *half, rows x stride
    uint64_t scale; // *float, by row
    uint64_t wide; // *float, rows x width: the same values unrounded, or 0
    uint32_t rows;
    uint32_t width;
    uint32_t stride; // a multiple of 64; what is beyond width is 0
    uint32_t stage_rows; // 0, or half as wide.cuh wants it: rows of a stage
    float inverse_width;
    float eps;
};

// One weight matrix of a projection.
struct Matrix {
    uint64_t plane[4]; // quants, high bits, scales, super-scales
    uint64_t bias;     // *float, or 0
    uint64_t out;      // *float, rows x outs
    uint32_t outs;
    uint32_t tiles; // of 16 outputs
    float up;       // what scales are multiplied with, a power of two (see formats.cuh)
    float down;     // and products, 2^24 / up; 1 for 16-bit weights
};

// What the slots of a warp take in ring.cuh, about: there are two at least; and the
// columns of a slot.
constexpr uint32_t kRingBytes = 4608;
constexpr uint32_t kRingColumns = 128;

// What the blocks of one from a certain one on have to do: tiles of matrices of one
// format.
struct Share {
    uint32_t block; // the first of them
    uint32_t tile;  // its first tile
    uint32_t each;  // tiles of a block, and
    uint32_t more;  // how many blocks have one more
    uint32_t steps; // of the format, in a row of weights
    uint32_t segments_log;
    uint32_t ring; // bytes of a warp's
};

struct ProjectParams {
    Matrix matrix[3];
    uint64_t in;       // *float, rows of width values: what one and few take
    uint64_t pick;     // *int32, the rows of in to take, or 0: all
    uint64_t gain;     // *float, or 0: no normalization
    uint64_t half;     // *half, rows x stride: prepare's, which many takes
    uint64_t scale;    // *float
    uint64_t residual; // *float, rows x outs of the first matrix, or 0
    uint64_t best;     // *uint64 by row: the largest output and its number, or 0 (see ranked)
    uint64_t partial;  // *float: the sums of blocks of wide that share outputs
    uint64_t count;    // *uint32, by the blocks' outputs and rows: how many are there; 0 between launches
    uint32_t matrices;
    uint32_t rows;
    uint32_t width;
    uint32_t stride;
    uint32_t steps;    // of the format, in a row of weights
    uint32_t segments; // parts of a row that are summed apart: 4, 8 or 16
    uint32_t segments_log; // the power of two that segments is
    uint32_t gated;    // two matrices, silu(first) * second
    uint32_t stage_rows; // what prepare was told
    uint32_t joint;    // the warpgroups of a block of wide make the same outputs
    uint32_t splits;   // and so many of its blocks do
    uint32_t tiles;    // of all matrices; of one with a gate
    float inverse_width;
    float eps;
    Share share[2];    // of one; the second where there are matrices of two formats
};

struct ProjectF32Params {
    uint64_t weight; // *float, outs x cols
    uint64_t bias;   // *float, or 0
    uint64_t in;     // *float, rows x cols
    uint64_t residual;
    uint64_t out;
    uint32_t rows;
    uint32_t cols;
    uint32_t outs;
};

struct GateParams {
    uint64_t gate; // *float, count values: silu(gate) * up
    uint64_t up;
    uint64_t out;
    uint64_t count;
};

// The KV cache of one layer. Keys of a block and head lie together, as half:
// [block][kv head][token in block][head dim]; values likewise.
struct CacheLayer {
    uint64_t keys;
    uint64_t values;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t block_size;
    uint32_t padding;
};

// How many heads a block of append takes.
constexpr uint32_t kAppendHeads = 8;

struct AppendParams {
    CacheLayer cache;
    uint64_t q; // *float, rows x heads*head_dim
    uint64_t k;
    uint64_t v;
    uint64_t q_out;
    uint64_t k_out;
    uint64_t angles;    // *float, of kernel angles
    uint64_t positions; // *int32, by row
    uint64_t tables;    // *int32: KV blocks of the sequences
    uint64_t table_of;  // *int32, by row: where in tables its sequence begins
    uint32_t rows;
    uint32_t heads;
    uint32_t dims;   // that are rotated
    uint32_t halves; // pairs (i, i+dims/2) rather than (2i, 2i+1)
};

struct AttendParams {
    CacheLayer cache;
    uint64_t q;          // *float, rows x heads*head_dim
    uint64_t out;        // *float, rows x heads*head_dim
    uint64_t tiles;      // *int32 by tile: first row, rows, its position, where in tables its sequence begins
    uint64_t tables;
    uint64_t partial;    // *float, tiles x heads x splits x head_dim
    uint64_t partial_ml; // *float, tiles x heads x splits x (largest score, sum)
    uint64_t count;      // *uint32 by tile and block in y: units that are done; 0 between steps
    // Of a step with one row of each sequence: the row's key and value are not
    // in the cache yet, nor are queries rotated (see append). 0 in k: they are.
    uint64_t k;
    uint64_t v;
    uint64_t angles;
    uint32_t dims;
    uint32_t halves;
    uint32_t heads;
    uint32_t splits;  // of attend_one: 1, a block walks over all of a row's units; or as many as any row has
    uint32_t cluster; // a row's blocks are one
    float scale;
};

struct ChooseParams {
    uint64_t logits; // *float, rows of count
    uint64_t out;    // *uint64 by row: raised to the largest logit's rank above the complement of its number
    uint32_t count;
};

// Bins of weights, 64 for each halving: see engine/sample/weight.go.
constexpr uint32_t kDrawBins = 2624;

// How many tokens can be put in order to find the last one that top-p or top-k leave.
constexpr uint32_t kDrawRoom = 2048;

// How many ids are summed together; as many chunks are the most there may be.
constexpr uint32_t kDrawChunk = 2048;

// Changes a logit: Edit of engine/sample.
struct DrawEdit {
    uint32_t id;
    float bias; // while it is changed, the logit as it was
    uint32_t times;
};

// What is wanted of a row: Plan of engine/sample.
struct DrawRow {
    double scale;
    uint64_t random;
    uint64_t share;   // of top-p
    uint64_t least;
    uint64_t edits;   // *DrawEdit
    uint64_t allowed; // *uint32, bits by id, or 0
    uint32_t edited;  // how many
    uint32_t row;     // of the logits
    uint32_t vocab;
    uint32_t top;     // of top-k, at most kDrawRoom
    uint32_t search;  // the product's largest logit does not do
    float repetition;
    float presence;
    float frequency;
};

// What is known of a row so far.
struct DrawState {
    uint64_t largest; // rank above the complement of the id
    uint64_t cut;     // the same of the last token that top-p leaves; 0: all
    uint64_t missing; // to what top-p wants, before the last bin
    uint32_t found;   // in the list
    uint32_t bad;     // the host has to look for itself
    uint32_t drawn;   // id is
    uint32_t id;
};

struct DrawParams {
    uint64_t logits; // *float, rows of count
    uint64_t best;   // *uint64 by row of logits: the product's largest; then with the drawn token
    uint64_t rows;   // *DrawRow by the launch's row
    uint64_t states; // *DrawState by row
    uint64_t bins;   // *uint64 by row, kDrawBins
    uint64_t list;   // *uint64 by row, kDrawRoom
    uint64_t sums;   // *uint64 by row, chunks
    uint64_t out;    // *int32 by row: the token, or -1
    uint32_t count;
    uint32_t chunks;
};

// What rate.cu repeats in one round: so many mma.m16n8k16 of each warp, or
// wgmma.m64n128k16 of each four warps. The numbers of the shape, times two, are the
// floating-point operations of one.
constexpr uint32_t kRateMmas = 8;
constexpr uint32_t kRateWgmmas = 8;

struct RateParams {
    float *out;      // one for each thread of the grid: the sum of its results
    uint32_t rounds;
};
