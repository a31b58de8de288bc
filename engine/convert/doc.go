// Package convert rewrites a GGUF file with its weights in another format.
//
// The matrices (tensors of two and more dimensions) take the format asked for.
// These stay as they are, byte for byte: tensors that already have it, vectors
// (norms and biases), norms with a row per head, and the routers of experts,
// which decide more than they weigh. A matrix whose rows are no whole number of
// blocks of the format becomes F16. The metadata is copied, but for
// general.file_type and general.quantization_version, which describe the result.
//
// Values go through float32: each is dequantized as package quant defines it and
// rounded once. One that is not finite, or that the format has no room for, fails
// the conversion and names the tensor, since a model that holds it answers
// nonsense.
package convert
