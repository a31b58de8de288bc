// Package quant is the table of tensor formats that Kigo reads: for each one its
// GGML type number, its block layout, a reference dequantizer and, where Kigo
// writes the format too, a quantizer.
//
// A tensor's row is cut into blocks of BlockSize consecutive values, each stored
// in BlockBytes bytes; a block never crosses a row. All multi-byte fields are
// little-endian, and nothing is aligned: a 22-byte Q5_0 block may start at any
// even byte, so every field is read byte by byte.
//
// The layouts are those of ggml's block definitions (ggml-common.h, block_q4_0
// and its neighbours). The arithmetic is float32 in one fixed order, the order of
// the numpy dequantizers in the Python package gguf, so that the values agree
// bit for bit on every machine: each product that a sum follows is converted to
// float32 explicitly, which forbids the compiler to fuse the two. Go does fuse on
// arm64, across statements and inlined calls too.
//
// The dequantizers are the reference against which every faster path is
// measured: plain loops, no tables beyond the block, no state.
//
// To add a format: write its layout and its dequantizer in a file here, add one
// row to the table in table.go, and record blocks made by an independent
// implementation in testdata.
package quant
