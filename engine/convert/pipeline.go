package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"sync"

	"kigo/engine/gguf"
)

// pieceValues is how many values are converted at a time: a multiple of every
// block size, 1 MiB as float32.
const pieceValues = 1 << 18

// piece is a run of whole blocks of one tensor, at most pieceValues values, on its
// way from in to out. Its buffers are used again for a later piece.
type piece struct {
	job    *job
	first  bool   // of its tensor
	at     uint64 // its first value
	count  uint64 // of values
	src    []byte
	values []float32
	dst    []byte // the result
	err    error
	done   chan struct{} // holds one token once the result is there
}

// run converts all tensors in order, piece by piece, and gives each piece to
// write, in order, from the calling goroutine. While one piece is written the
// next ones are converted, one goroutine each, as many as there are cores; all
// have ended when run returns.
func run(ctx context.Context, in io.ReaderAt, jobs []job, write func(*piece) error) error {
	ring := make([]piece, runtime.GOMAXPROCS(0)+1)
	for i := range ring {
		ring[i].done = make(chan struct{}, 1)
	}
	var workers sync.WaitGroup
	defer workers.Wait()

	finish := func(p *piece) error {
		<-p.done
		if p.err != nil {
			return p.err
		}
		return write(p)
	}
	started := 0
	for p := range pieces(jobs) {
		slot := &ring[started%len(ring)]
		if started >= len(ring) {
			if err := finish(slot); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("convert: %w", err)
		}
		slot.job, slot.first, slot.at, slot.count, slot.err = p.job, p.first, p.at, p.count, nil
		workers.Go(func() {
			slot.err = slot.convert(in)
			slot.done <- struct{}{}
		})
		started++
	}
	for i := max(0, started-len(ring)); i < started; i++ {
		if err := finish(&ring[i%len(ring)]); err != nil {
			return err
		}
	}
	return nil
}

// pieces cuts all tensors into pieces, in order; only the fields that say which
// values are set.
func pieces(jobs []job) iter.Seq[piece] {
	return func(yield func(piece) bool) {
		for i := range jobs {
			total := jobs[i].from.Elements()
			for at := uint64(0); at < total; at += pieceValues {
				if !yield(piece{job: &jobs[i], first: at == 0, at: at, count: min(pieceValues, total-at)}) {
					return
				}
			}
		}
	}
}

// convert reads the piece's source bytes and makes its result.
func (p *piece) convert(in io.ReaderAt) error {
	j := p.job
	offset, err := j.src.RowBytes(p.at)
	if err != nil {
		return fmt.Errorf("tensor %.80q: %w", j.from.Name, err)
	}
	p.src = resize(p.src, p.count, j.src.BlockSize, j.src.BlockBytes)
	if n, err := in.ReadAt(p.src, j.from.Offset+int64(offset)); n < len(p.src) {
		if err == nil || errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: in tensor %.80q", gguf.ErrTruncated, j.from.Name)
		}
		return fmt.Errorf("read tensor %.80q: %w", j.from.Name, err)
	}
	if j.copied() {
		p.dst = append(p.dst[:0], p.src...)
		return nil
	}
	if p.values == nil {
		p.values = make([]float32, pieceValues)
	}
	p.values = p.values[:p.count]
	j.src.Dequantize(p.values, p.src)
	p.dst = resize(p.dst, p.count, j.dst.BlockSize, j.dst.BlockBytes)
	j.dst.Quantize(p.dst, p.values)
	return p.check()
}

// resize returns b with room for that many values in blocks.
func resize(b []byte, values uint64, size, bytes int) []byte {
	n := int(values) / size * bytes
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
