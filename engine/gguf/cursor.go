package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unsafe"
)

// chunkBytes is how much of the header is read at once. Chunks are kept: strings
// point into them.
const chunkBytes = 1 << 20

// cursor reads a file from its start, in chunks, and stops at the header's limit.
// What it hands out stays valid: a chunk is never written again once read.
type cursor struct {
	r     io.ReaderAt
	size  int64 // of the file
	limit int64 // of the header
	base  int64 // offset of chunk[0] in the file
	chunk []byte
	i     int // the next byte, within chunk

	// What is being read, for errors: "key", "tensor" or "" for the fixed part,
	// its name once known, else its number.
	kind string
	name string
	nth  int
}

// pos returns the offset of the next byte.
func (c *cursor) pos() int64 { return c.base + int64(c.i) }

// errorf wraps a sentinel with the place that at is in.
func (c *cursor) errorf(sentinel error, at int64, format string, args ...any) error {
	var where string
	switch {
	case c.kind == "":
		where = "header"
	case c.name == "":
		where = fmt.Sprintf("%s number %d", c.kind, c.nth)
	default:
		where = fmt.Sprintf("%s %.80q", c.kind, c.name)
	}
	return fmt.Errorf("%w: %s, byte %d: %w", sentinel, where, at, fmt.Errorf(format, args...))
}

// room checks that count items of at least each bytes can follow: first against
// the header's limit, then against the file's end.
func (c *cursor) room(count, each uint64, what string) error {
	pos := c.pos()
	if left := uint64(c.limit - pos); count > left/each {
		return c.errorf(ErrFormat, pos, "%d %s go beyond the %d bytes allowed for a header", count, what, c.limit)
	}
	if left := uint64(c.size - pos); count > left/each {
		return c.errorf(ErrTruncated, pos, "%d %s need at least %d bytes, %d are left", count, what, count*each, left)
	}
	return nil
}

// take returns the next n bytes. They must not be changed.
func (c *cursor) take(n uint64, what string) ([]byte, error) {
	if n > uint64(len(c.chunk)-c.i) {
		if err := c.room(n, 1, "bytes of "+what); err != nil {
			return nil, err
		}
		if err := c.fill(int(n)); err != nil {
			return nil, err
		}
	}
	b := c.chunk[c.i : c.i+int(n) : c.i+int(n)]
	c.i += int(n)
	return b, nil
}

// fill starts a new chunk at the next byte that holds at least n bytes, which
// room has allowed.
func (c *cursor) fill(n int) error {
	pos := c.pos()
	readable := min(c.size, c.limit) - pos
	next := make([]byte, max(int64(n), min(chunkBytes, readable)))
	have := copy(next, c.chunk[c.i:])
	for have < len(next) {
		k, err := c.r.ReadAt(next[have:], pos+int64(have))
		have += k
		if have == len(next) {
			break
		}
		if errors.Is(err, io.EOF) || err == nil && k == 0 {
			return c.errorf(ErrTruncated, pos+int64(have), "the file has become shorter than its %d bytes", c.size)
		}
		if err != nil {
			return fmt.Errorf("GGUF header, byte %d: %w", pos+int64(have), err)
		}
	}
	c.base, c.chunk, c.i = pos, next, 0
	return nil
}

func (c *cursor) uint32(what string) (uint32, error) {
	b, err := c.take(4, what)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (c *cursor) uint64(what string) (uint64, error) {
	b, err := c.take(8, what)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// text reads a length and that many bytes, at most limit.
func (c *cursor) text(limit uint64, what string) (string, error) {
	at := c.pos()
	n, err := c.uint64("the length of " + what)
	if err != nil {
		return "", err
	}
	if n > limit {
		return "", c.errorf(ErrFormat, at, "%s has %d bytes, at most %d are allowed", what, n, limit)
	}
	b, err := c.take(n, what)
	if err != nil {
		return "", err
	}
	return view(b), nil
}

// texts walks over count strings, for which room has been found, and returns their
// encoding in pieces of whole strings.
func (c *cursor) texts(count, limit uint64) ([][]byte, error) {
	var pieces [][]byte
	start := c.i
	for i := range count {
		// The usual case without a call: length and bytes are in the chunk.
		b := c.chunk[c.i:]
		if len(b) >= 8 {
			n := binary.LittleEndian.Uint64(b)
			if n <= uint64(len(b)-8) && n <= limit {
				c.i += 8 + int(n)
				continue
			}
		}
		if c.i > start {
			pieces = append(pieces, c.chunk[start:c.i:c.i])
		}
		if err := c.refill(limit); err != nil {
			return nil, fmt.Errorf("%w (element %d of %d)", err, i, count)
		}
		start = c.i
		c.i += 8 + int(binary.LittleEndian.Uint64(c.chunk[c.i:]))
	}
	if c.i > start {
		pieces = append(pieces, c.chunk[start:c.i:c.i])
	}
	return pieces, nil
}

// refill makes the chunk hold the whole of the next string, whose length is at
// most limit.
func (c *cursor) refill(limit uint64) error {
	b, err := c.take(8, "the length of a string")
	if err != nil {
		return err
	}
	c.i -= 8
	n := binary.LittleEndian.Uint64(b)
	if n > limit {
		return c.errorf(ErrFormat, c.pos(), "a string has %d bytes, at most %d are allowed", n, limit)
	}
	if _, err := c.take(8+n, "a string"); err != nil {
		return err
	}
	c.i -= 8 + int(n)
	return nil
}

// view returns the string of bytes that will never change, without a copy.
func view(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b))
}
