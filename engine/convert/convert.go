package convert

import (
	"context"
	"errors"
	"io"

	"kigo/engine/gguf"
	"kigo/engine/quant"
)

var (
	// ErrNotWritten says that Kigo reads the format and does not write it.
	ErrNotWritten = errors.New("format cannot be written")
	// ErrValue says that a tensor holds a value that is not finite, or becomes
	// infinite in the new format.
	ErrValue = errors.New("value out of range")
)

// Result says what a conversion did.
type Result struct {
	Converted int   // tensors whose format changed
	Kept      int   // tensors copied byte for byte
	BytesIn   int64 // size of the input
	BytesOut  int64 // size of the output
	// Fallbacks names the matrices, counted above, that became F16 (or were F16
	// already) because their rows are no whole number of the format's blocks.
	Fallbacks []string
}

// Convert reads a GGUF file of size bytes and writes it to out, front to back,
// with its matrices in format. It holds a few megabytes at a time beside the
// header, and works on all cores.
//
// progress, if it is not nil, is called now and then, from the calling goroutine,
// with the bytes of tensor data written so far and in all.
//
// Errors wrap those of package gguf for a bad input, ErrNotWritten, ErrValue, the
// context's error, or those of in and out. After an error what was written to out
// is of no use.
func Convert(ctx context.Context, in io.ReaderAt, size int64, out io.Writer, format *quant.Format,
	progress func(done, total int64)) (Result, error) {
	file, err := gguf.Parse(in, size, gguf.Limits{})
	if err != nil {
		return Result{}, err
	}
	kvs, tensors, jobs, fallbacks, err := plan(file, format)
	if err != nil {
		return Result{}, err
	}
	w, err := gguf.NewWriter(out, kvs, tensors)
	if err != nil {
		return Result{}, err
	}
	if progress == nil {
		progress = func(int64, int64) {}
	}
	var total, done int64
	for i := range w.File().Tensors {
		total += w.File().Tensors[i].Size
	}
	err = run(ctx, in, jobs, func(p *piece) error {
		if p.first {
			if err := w.Begin(p.job.from.Name); err != nil {
				return err
			}
		}
		if _, err := w.Write(p.dst); err != nil {
			return err
		}
		done += int64(len(p.dst))
		progress(done, total)
		return nil
	})
	if err != nil {
		return Result{}, err
	}
	if err := w.Close(); err != nil {
		return Result{}, err
	}
	r := Result{BytesIn: size, BytesOut: w.File().Size, Fallbacks: fallbacks}
	for i := range jobs {
		if jobs[i].copied() {
			r.Kept++
		} else {
			r.Converted++
		}
	}
	return r, nil
}
