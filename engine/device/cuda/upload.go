package cuda

import (
	"errors"
	"fmt"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
	"kigo/kernels"
)

// uploader implements device.Uploader.
type uploader struct {
	w      *weights
	s      *lane
	tensor int
	off, n int // of the buffer that is out
	out    bool
	move   *launch[kernels.RepackParams]
	err    error // the first failure; nothing is done after it
}

// NewUploader takes a lane of the device's.
func (w *weights) NewUploader() (device.Uploader, error) {
	if w.closed.Load() {
		return nil, fmt.Errorf("weights: %w", device.ErrClosed)
	}
	move, err := newLaunch(w.dev, "repack", repackThreads, kernels.RepackParams{})
	if err != nil {
		return nil, err
	}
	unbind, err := w.dev.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	s, err := w.dev.lanes.take(w.dev)
	if err != nil {
		return nil, err
	}
	return &uploader{w: w, s: s, move: move}, nil
}

const repackThreads = 256

// Buffer waits for the slot's last transfer.
func (u *uploader) Buffer(tensor, off, n int) ([]byte, error) {
	if u.s == nil {
		return nil, fmt.Errorf("uploader: %w", device.ErrClosed)
	}
	if u.err != nil {
		return nil, u.err
	}
	if err := u.w.check(tensor); err != nil {
		return nil, err
	}
	t := &u.w.places[tensor].tensor
	if size := t.Bytes(); off < 0 || n < 0 || off > size || n > size-off {
		return nil, fmt.Errorf("tensor %q: bytes %d+%d of %d", t.Name, off, n, size)
	}
	if n > slotBytes {
		return nil, fmt.Errorf("tensor %q: %d bytes at once, at most %d", t.Name, n, slotBytes)
	}
	if off%2 != 0 || n%2 != 0 {
		return nil, fmt.Errorf("tensor %q: bytes %d+%d: odd", t.Name, off, n)
	}
	unbind, err := u.w.dev.bind()
	if err != nil {
		return nil, err
	}
	defer unbind()
	if err := u.w.dev.drv.SyncEvent(u.s.done[u.s.next]); err != nil {
		u.err = u.w.dev.wrap(err, "upload")
		return nil, u.err
	}
	u.tensor, u.off, u.n, u.out = tensor, off, n, true
	at := u.s.next * slotBytes
	return u.s.host[at : at+n : at+n], nil
}

// Commit starts the copy and, behind it, the move into planes.
func (u *uploader) Commit() error {
	if u.s == nil || u.w.closed.Load() {
		return fmt.Errorf("uploader: %w", device.ErrClosed)
	}
	if u.err != nil {
		return u.err
	}
	if !u.out {
		return errors.New("uploader: Commit without Buffer")
	}
	u.out = false
	if u.n == 0 {
		return nil
	}
	unbind, err := u.w.dev.bind()
	if err != nil {
		return err
	}
	defer unbind()
	if err := u.send(); err != nil {
		u.err = u.w.dev.wrap(err, "upload of tensor %q", u.w.places[u.tensor].tensor.Name)
		return u.err
	}
	u.s.next = (u.s.next + 1) % slotsOfLane
	return nil
}

func (u *uploader) send() error {
	d, s := u.w.dev, u.s
	at := s.next * slotBytes
	arrived := s.device + driver.Ptr(at)
	p := &u.w.places[u.tensor]
	if p.scheme == nil { // stays as it is: straight to its place
		to := u.w.mem.ptr + driver.Ptr(p.offset+uint64(u.off))
		if err := d.drv.CopyToDevice(to, s.host[at:at+u.n], s.stream); err != nil {
			return err
		}
		return d.drv.Record(s.done[s.next], s.stream)
	}
	if err := d.drv.CopyToDevice(arrived, s.host[at:at+u.n], s.stream); err != nil {
		return err
	}
	u.move.params = kernels.RepackParams{
		Layout: u.w.layout(u.tensor),
		From:   uint64(arrived),
		First:  uint64(u.off),
		Bytes:  uint64(u.n),
	}
	u.move.grid(min(ceilDiv(u.n/2, repackThreads), 8*d.props.SMs), 1, 1)
	if err := start(d, u.move, s.stream); err != nil {
		return err
	}
	return d.drv.Record(s.done[s.next], s.stream)
}

// Close waits for all transfers and gives the lane back.
func (u *uploader) Close() error {
	if u.s == nil {
		return nil
	}
	s, d := u.s, u.w.dev
	unbind, err := d.bind()
	if err != nil {
		return err
	}
	defer unbind()
	u.s = nil
	err = d.wrap(d.drv.SyncStream(s.stream), "upload")
	return errors.Join(err, d.lanes.give(d, s))
}
