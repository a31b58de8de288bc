// Package load moves a model's tensors from a file to a device and proves that
// what arrived is what the file holds.
//
// Several goroutines read pieces of the file with pread straight into memory
// that the device hands out, and hash each piece while it is still in the
// processor's cache. Afterwards the device hashes the form that its operators
// read, and the two must be equal, tensor by tensor. The file is never mapped:
// a file that is cut short while it is mapped kills the process.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"kigo/engine/device"
	"kigo/engine/model"
)

// What can go wrong beyond the device's own errors.
var (
	ErrTruncated = errors.New("the file is shorter than its header says")
	ErrCorrupt   = errors.New("the device holds other bytes than the file")
)

// Source is where a tensor's bytes stand in the file.
type Source struct {
	Name   string
	Offset int64
	Size   int64
}

// Progress counts what has been done so far.
type Progress struct {
	Bytes   uint64
	Tensors int
}

// pieceBytes is what one goroutine takes at a time: large enough for the
// device's copies, small enough that the last piece does not keep others
// waiting. readBytes is read and hashed at once, so that the hash finds it in
// the processor's second-level cache. Both are multiples of 8, as the hash
// needs.
const (
	pieceBytes = device.MaxPiece
	readBytes  = 256 << 10
)

// Threads is how many goroutines read and hash, given the processors there are.
func Threads() int { return min(max(runtime.GOMAXPROCS(0), 2), 12) }

type piece struct {
	tensor   int
	off, len int
}

// Weights brings a binding's tensors to the device and proves that they arrived.
// The caller owns the result. report is as for Read.
func Weights(ctx context.Context, dev device.Device, b *model.Binding, file io.ReaderAt, report func(Progress)) (device.Weights, error) {
	w, err := dev.NewWeights(b.Tensors)
	if err != nil {
		return nil, err
	}
	sources := Sources(b)
	hashes, err := Read(ctx, file, sources, w, report)
	if err == nil {
		err = Verify(ctx, sources, hashes, w)
	}
	switch {
	case errors.Is(err, device.ErrLost): // nothing is called on it any more
		return nil, err
	case err != nil:
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// Read copies every source's bytes to the tensor of the same index of w and
// returns their hashes. report may be nil; it is called from one goroutine at
// a time. A cancelled ctx ends the read within one pread.
func Read(ctx context.Context, file io.ReaderAt, sources []Source, w device.Weights, report func(Progress)) ([]uint64, error) {
	hashes := make([]atomic.Uint64, len(sources))
	left := make([]atomic.Int64, len(sources)) // bytes to come, by tensor
	group, ctx := errgroup.WithContext(ctx)
	pieces := make(chan piece)
	group.Go(func() error {
		defer close(pieces)
		for i, s := range sources {
			left[i].Store(s.Size)
			for off := 0; off < int(s.Size); off += pieceBytes {
				select {
				case pieces <- piece{i, off, min(pieceBytes, int(s.Size)-off)}:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	})
	count := counter{report: report}
	for range Threads() {
		group.Go(func() (err error) {
			up, err := w.NewUploader()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, up.Close()) }()
			for p := range pieces {
				sum, err := readPiece(ctx, file, &sources[p.tensor], up, p)
				if err != nil {
					return fmt.Errorf("tensor %q: %w", sources[p.tensor].Name, err)
				}
				hashes[p.tensor].Add(uint64(sum))
				count.add(p.len, left[p.tensor].Add(-int64(p.len)) == 0)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	result := make([]uint64, len(hashes))
	for i := range hashes {
		result[i] = hashes[i].Load()
	}
	return result, nil
}

func readPiece(ctx context.Context, file io.ReaderAt, s *Source, up device.Uploader, p piece) (device.Hash, error) {
	buf, err := up.Buffer(p.tensor, p.off, p.len)
	if err != nil {
		return 0, err
	}
	var h device.Hash
	for at := 0; at < len(buf); at += readBytes {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		part := buf[at:min(at+readBytes, len(buf))]
		n, err := file.ReadAt(part, s.Offset+int64(p.off+at))
		if n < len(part) {
			if errors.Is(err, io.EOF) || err == nil {
				return 0, fmt.Errorf("%w: %d bytes missing at offset %d", ErrTruncated, len(part)-n, s.Offset+int64(p.off+at+n))
			}
			return 0, fmt.Errorf("read at offset %d: %w", s.Offset+int64(p.off+at), err)
		}
		h.Add(p.off+at, part)
	}
	return h, up.Commit()
}

// counter adds up progress and reports it in order.
type counter struct {
	report func(Progress)
	mu     sync.Mutex
	sum    Progress
}

func (c *counter) add(bytes int, tensorDone bool) {
	if c.report == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sum.Bytes += uint64(bytes)
	if tensorDone {
		c.sum.Tensors++
	}
	c.report(c.sum)
}

// Verify hashes every tensor on the device and compares with what Read found
// in the file. The error wraps ErrCorrupt and names the tensors that differ.
func Verify(ctx context.Context, sources []Source, hashes []uint64, w device.Weights) error {
	got, err := deviceHashes(ctx, sources, w)
	if err != nil {
		return err
	}
	differs := make([]bool, len(sources))
	for i := range sources {
		differs[i] = got[i] != hashes[i]
	}
	var names []string
	for i, d := range differs {
		if d {
			names = append(names, sources[i].Name)
		}
	}
	if len(names) > 0 {
		shown := names[:min(len(names), 10)]
		return fmt.Errorf("%w: %d of %d tensors, among them %s", ErrCorrupt, len(names), len(sources), strings.Join(shown, ", "))
	}
	return nil
}

// deviceHashes asks for all hashes at once where the device can do that, and else
// for several at a time.
func deviceHashes(ctx context.Context, sources []Source, w device.Weights) ([]uint64, error) {
	if all, ok := w.(interface{ Hashes() ([]uint64, error) }); ok {
		return all.Hashes()
	}
	got := make([]uint64, len(sources))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(Threads())
	for i := range sources {
		group.Go(func() (err error) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if got[i], err = w.Hash(i); err != nil {
				return fmt.Errorf("tensor %q: %w", sources[i].Name, err)
			}
			return nil
		})
	}
	return got, group.Wait()
}

// File is what a model is read from; *os.File is one.
type File interface {
	io.ReaderAt
	Stat() (fs.FileInfo, error)
}

// Sources lists where a binding's tensors stand in the file.
func Sources(b *model.Binding) []Source {
	sources := make([]Source, len(b.Source))
	for i, t := range b.Source {
		sources[i] = Source{Name: t.Name, Offset: t.Offset, Size: t.Size}
	}
	return sources
}
