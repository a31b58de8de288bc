package cuda

import (
	"errors"
	"runtime"
	"sync"

	"kigo/engine/device"
	"kigo/engine/device/cuda/driver"
)

// A lane has two slots, of the largest piece each: one is filled while the other
// travels. Twelve of them keep a PCIe 5 link busy (12 x 2 x 4 MiB reached 48 GB/s
// with hashes on both sides, 8 lanes 39, larger slots less).
const (
	slotBytes    = device.MaxPiece
	slotsOfLane  = 2
	laneBytes    = slotsOfLane * slotBytes
	maxLanes     = 12
	touchedBytes = 2 << 20
)

// lane is what an uploader works with: pinned memory that a file is read into,
// device memory where it arrives as it is in the file, and a stream on which
// copies and the moves into planes follow each other.
type lane struct {
	number int
	stream driver.Stream
	host   []byte // laneBytes, pinned
	device driver.Ptr
	done   [slotsOfLane]driver.Event // the slot's last use
	next   int
}

// lanes are the device's. Their host memory is kept from load to load: to pin it
// takes longer than to read a small model. Their device memory is there while
// somebody loads.
type lanes struct {
	count  int           // at most maxLanes
	mapped chan struct{} // closed when ring is valid
	ring   []byte        // count x laneBytes; nil: there is no such memory

	mu     sync.Mutex
	freed  *sync.Cond
	pinned bool
	all    [maxLanes]*lane
	used   [maxLanes]bool
	users  int
	area   buffer
}

// newLanes has the operating system provide memory for so many while the caller
// starts the driver, which takes longer.
func newLanes(count int) *lanes {
	l := &lanes{count: count, mapped: make(chan struct{})}
	l.freed = sync.NewCond(&l.mu)
	go func() {
		defer close(l.mapped)
		ring, err := mapMemory(count * laneBytes)
		if err != nil {
			return // take will say so
		}
		var touching sync.WaitGroup
		for part := range min(runtime.GOMAXPROCS(0), maxLanes) {
			touching.Go(func() {
				for at := part * touchedBytes; at < len(ring); at += maxLanes * touchedBytes {
					for i := at; i < min(at+touchedBytes, len(ring)); i += 4096 {
						ring[i] = 0
					}
				}
			})
		}
		touching.Wait()
		l.ring = ring
	}()
	return l
}

// take gives a lane out, and waits while all are in use. The context must be bound.
func (l *lanes) take(d *Device) (_ *lane, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	number := -1
	for number < 0 {
		for i, used := range l.used[:l.count] {
			if !used {
				number = i
				break
			}
		}
		if number < 0 {
			l.freed.Wait()
		}
	}
	if err := l.ready(d); err != nil {
		return nil, d.wrap(err, "memory for uploading")
	}
	s := l.all[number]
	if s == nil {
		if s, err = l.open(d, number); err != nil {
			return nil, d.wrap(errors.Join(err, l.settle(d)), "a lane for uploading")
		}
		l.all[number] = s
	}
	s.next, s.device = 0, l.area.ptr+driver.Ptr(number*laneBytes)
	l.used[number] = true
	l.users++
	return s, nil
}

// ready pins the host memory, once, and takes the device's.
func (l *lanes) ready(d *Device) error {
	<-l.mapped
	if !l.pinned {
		if l.ring == nil {
			ring, err := mapMemory(l.count * laneBytes)
			if err != nil {
				return err
			}
			l.ring = ring
		}
		if err := d.drv.HostRegister(l.ring); err != nil {
			return err
		}
		l.pinned = true
	}
	if l.area.ptr == 0 {
		var err error
		if l.area, err = d.allocate(uint64(l.count)*laneBytes, "upload slots"); err != nil {
			return err
		}
	}
	return nil
}

func (l *lanes) open(d *Device, number int) (_ *lane, err error) {
	s := &lane{number: number, host: l.ring[number*laneBytes : (number+1)*laneBytes]}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(d))
		}
	}()
	if s.stream, err = d.drv.NewStream(); err != nil {
		return nil, err
	}
	for i := range s.done {
		if s.done[i], err = d.drv.NewEvent(false); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *lane) close(d *Device) error {
	var errs []error
	if s.stream != 0 {
		errs = append(errs, d.drv.DestroyStream(s.stream))
	}
	for _, e := range s.done {
		if e != 0 {
			errs = append(errs, d.drv.DestroyEvent(e))
		}
	}
	return errors.Join(errs...)
}

// give takes a lane back whose work is done. The context must be bound.
func (l *lanes) give(d *Device, s *lane) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used[s.number] = false
	l.users--
	l.freed.Signal()
	return l.settle(d)
}

// settle gives the device memory back when the last user has gone.
func (l *lanes) settle(d *Device) error {
	if l.users > 0 {
		return nil
	}
	return d.release(&l.area)
}

// close frees everything. No lane is in use; the context is bound, unless the
// device has failed.
func (l *lanes) close(d *Device) error {
	<-l.mapped
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for i, s := range l.all {
		if s != nil {
			errs = append(errs, s.close(d))
			l.all[i] = nil
		}
	}
	errs = append(errs, d.release(&l.area))
	if l.pinned {
		errs = append(errs, d.drv.HostUnregister(l.ring))
		l.pinned = false
	}
	if l.ring != nil && d.drv.Failed() == nil { // a dead GPU may still write there
		errs = append(errs, unmapMemory(l.ring))
		l.ring = nil
	}
	return errors.Join(errs...)
}
