// Package gguf reads and writes the header of GGUF files (versions 2 and 3,
// little-endian): the metadata and the table of tensors. It knows the format and
// nothing of models; the tensors' bytes are the caller's to read, at the offsets
// that the table gives.
//
// A file is laid out as
//
//	"GGUF"  version u32  tensor count u64  metadata count u64
//	metadata: key, value type u32, value
//	tensors:  name, dimension count u32, dimensions u64 …, type u32, offset u64
//	padding to general.alignment (32 if absent)
//	tensor data, each tensor at a multiple of the alignment
//
// where a string (keys, names, values) is its length as u64 and that many bytes.
// The format is described in the GGML project's docs/gguf.md.
//
// # Hostile files
//
// Parse takes any bytes. It never panics; it compares every count with the bytes
// that are left before it allocates for it, so that a header costs at most 16 MiB
// and four times its length in memory; and a File that it returns is sound:
// keys and names are unique and not empty, every tensor has one to four
// dimensions above zero and a known type, and lies within the file, aligned,
// apart from the header and from all other tensors. Strings are bytes as the file
// has them: whether they are UTF-8 is not checked here, since tokens need not be.
//
// An error wraps one of the sentinels ErrFormat, ErrTruncated and ErrUnsupported,
// or the reader's own error, and says which key or tensor is wrong, and at which
// byte of the file.
package gguf
