package fakedriver

import (
	"errors"
	"slices"
	"time"

	"kigo/engine/device/cuda/driver"
)

// stream is a queue of work that is done as late as the rules allow.
type stream struct {
	work    []work
	capture *capture // of this stream, or nil
}

// work is one piece of it: exactly one field but name is set.
type work struct {
	name string
	run  func() error
	hang chan struct{} // done when closed
	wait *mark         // done when that is passed
	mark *mark         // passed when the stream gets here
}

// mark is a place in a stream that an event recorded.
type mark struct {
	in     *stream
	passed bool
	at     time.Duration
}

type event struct {
	timing  bool
	last    *mark    // nil: nothing recorded
	capture *capture // recorded in this capture, which is not work
}

// stream finds one by its handle.
func (f *Driver) stream(call string, h driver.Stream) (*stream, error) {
	if q := f.streams[h]; q != nil {
		return q, nil
	}
	return nil, f.misused(call, driver.CodeInvalidHandle, "stream %#x", uintptr(h))
}

func (f *Driver) event(call string, h driver.Event) (*event, error) {
	e := f.events[h]
	if e == nil {
		return nil, f.misused(call, driver.CodeInvalidHandle, "event %#x", uintptr(h))
	}
	return e, nil
}

// put adds work to a stream, or to its capture.
func (f *Driver) put(call string, q *stream, name string, run func() error) error {
	if c := q.capture; c != nil {
		if c.invalid {
			return f.fail(call, driver.CodeStreamCaptureInvalidated, "%s", name)
		}
		c.nodes = append(c.nodes, node{name: name, run: run})
		return nil
	}
	if s := f.scripted(call, true); s != nil {
		if s.hang != nil {
			q.work = append(q.work, work{name: "hang", hang: s.hang})
		} else {
			run = func() error { return s.code }
		}
	}
	q.work = append(q.work, work{name: name, run: run})
	return f.eager(call, q)
}

func (f *Driver) eager(call string, q *stream) error {
	if !f.cfg.Eager {
		return nil
	}
	_, err := f.advance(call, q, nil)
	return err
}

// advance works on a stream until the mark is passed, or to its end. If
// something hangs it returns what to wait for. A failure clears the stream.
func (f *Driver) advance(call string, q *stream, until *mark) (<-chan struct{}, error) {
	for len(q.work) > 0 && (until == nil || !until.passed) {
		if hang, err := f.one(call, q); hang != nil || err != nil {
			return hang, err
		}
	}
	return nil, nil
}

// one does the first piece of work of a stream.
func (f *Driver) one(call string, q *stream) (<-chan struct{}, error) {
	w := q.work[0]
	switch {
	case w.hang != nil:
		select {
		case <-w.hang:
		default:
			return w.hang, nil
		}
	case w.wait != nil:
		if hang, err := f.advance(call, w.wait.in, w.wait); hang != nil || err != nil {
			return hang, err
		}
	case w.mark != nil:
		w.mark.passed, w.mark.at = true, f.clock
	default:
		f.clock += time.Microsecond
		if err := w.run(); err != nil {
			for _, lost := range q.work {
				if lost.mark != nil {
					lost.mark.passed, lost.mark.at = true, f.clock
				}
			}
			q.work = nil
			code := driver.CodeLaunchFailed
			errors.As(err, &code)
			return nil, f.fail(call, code, "%s: %v", w.name, err)
		}
	}
	q.work = q.work[1:]
	return nil, nil
}

// sync works on a stream until the mark or its end, and waits for what hangs;
// f.mu is free meanwhile.
func (f *Driver) sync(call string, q *stream, until *mark) error {
	for {
		hang, err := f.advance(call, q, until)
		if hang == nil || err != nil {
			return err
		}
		f.mu.Unlock()
		<-hang
		f.mu.Lock()
		if e := f.latch.Refuse(call); e != nil {
			return e
		}
	}
}

// drain waits for all work of the device.
func (f *Driver) drain(call string) error {
	queues := slices.Clone(f.orphans)
	for _, q := range f.streams {
		queues = append(queues, q)
	}
	for _, q := range queues {
		if err := f.sync(call, q, nil); err != nil {
			return err
		}
	}
	f.orphans = slices.DeleteFunc(f.orphans, func(q *stream) bool { return len(q.work) == 0 })
	return nil
}

// forbidden refuses to wait for a stream that records, and spoils the recording.
func (f *Driver) forbidden(call string, q *stream) error {
	if q.capture == nil {
		return nil
	}
	q.capture.invalid = true
	return f.misused(call, driver.CodeStreamCaptureUnsupported, "the stream is capturing")
}

func (f *Driver) NewStream() (driver.Stream, error) {
	if err := f.enter("NewStream", context); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	h := driver.Stream(f.id())
	f.streams[h] = &stream{}
	return h, nil
}

func (f *Driver) DestroyStream(s driver.Stream) error {
	if err := f.enter("DestroyStream", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	q, err := f.stream("DestroyStream", s)
	if err != nil {
		return err
	}
	delete(f.streams, s)
	if len(q.work) > 0 {
		f.orphans = append(f.orphans, q)
	}
	return nil
}

func (f *Driver) SyncStream(s driver.Stream) error {
	if err := f.enter("SyncStream", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	q, err := f.stream("SyncStream", s)
	if err != nil {
		return err
	}
	if err := f.forbidden("SyncStream", q); err != nil {
		return err
	}
	return f.sync("SyncStream", q, nil)
}

func (f *Driver) QueryStream(s driver.Stream) (bool, error) {
	if err := f.enter("QueryStream", context); err != nil {
		return false, err
	}
	defer f.mu.Unlock()
	q, err := f.stream("QueryStream", s)
	if err != nil {
		return false, err
	}
	if err := f.forbidden("QueryStream", q); err != nil {
		return false, err
	}
	if len(q.work) == 0 {
		return true, nil
	}
	_, err = f.one("QueryStream", q)
	return false, err
}

func (f *Driver) StreamWait(s driver.Stream, h driver.Event) error {
	if err := f.enter("StreamWait", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	q, err := f.stream("StreamWait", s)
	if err != nil {
		return err
	}
	e, err := f.event("StreamWait", h)
	if err != nil {
		return err
	}
	if e.capture != q.capture {
		for _, c := range []*capture{e.capture, q.capture} {
			if c != nil {
				c.invalid = true
			}
		}
		return f.misused("StreamWait", driver.CodeStreamCaptureIsolation, "between a capture and what is outside (the fake has no forks)")
	}
	if q.capture != nil || e.last == nil {
		return nil // in one stream the order is there already
	}
	q.work = append(q.work, work{name: "StreamWait", wait: e.last})
	return f.eager("StreamWait", q)
}

func (f *Driver) NewEvent(timing bool) (driver.Event, error) {
	if err := f.enter("NewEvent", context); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	h := driver.Event(f.id())
	f.events[h] = &event{timing: timing}
	return h, nil
}

func (f *Driver) DestroyEvent(h driver.Event) error {
	if err := f.enter("DestroyEvent", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if _, err := f.event("DestroyEvent", h); err != nil {
		return err
	}
	delete(f.events, h)
	return nil
}

func (f *Driver) Record(h driver.Event, s driver.Stream) error {
	if err := f.enter("Record", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	e, err := f.event("Record", h)
	if err != nil {
		return err
	}
	q, err := f.stream("Record", s)
	if err != nil {
		return err
	}
	if e.capture = q.capture; e.capture != nil {
		return nil
	}
	e.last = &mark{in: q}
	if s := f.scripted("Record", true); s != nil && s.hang != nil {
		q.work = append(q.work, work{name: "hang", hang: s.hang})
	}
	q.work = append(q.work, work{name: "Record", mark: e.last})
	return f.eager("Record", q)
}

// recorded finds an event that can be asked after.
func (f *Driver) recorded(call string, h driver.Event) (*event, error) {
	e, err := f.event(call, h)
	if err == nil && e.capture != nil {
		return nil, f.misused(call, driver.CodeCapturedEvent, "event %#x", uintptr(h))
	}
	return e, err
}

func (f *Driver) SyncEvent(h driver.Event) error {
	if err := f.enter("SyncEvent", context); err != nil {
		return err
	}
	defer f.mu.Unlock()
	e, err := f.recorded("SyncEvent", h)
	if err != nil || e.last == nil {
		return err
	}
	return f.sync("SyncEvent", e.last.in, e.last)
}

func (f *Driver) QueryEvent(h driver.Event) (bool, error) {
	if err := f.enter("QueryEvent", context); err != nil {
		return false, err
	}
	defer f.mu.Unlock()
	e, err := f.recorded("QueryEvent", h)
	if err != nil {
		return false, err
	}
	if e.last == nil || e.last.passed {
		return true, nil
	}
	_, err = f.one("QueryEvent", e.last.in)
	return false, err
}

func (f *Driver) Elapsed(from, to driver.Event) (time.Duration, error) {
	if err := f.enter("Elapsed", context); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	var at [2]time.Duration
	for i, h := range []driver.Event{from, to} {
		e, err := f.recorded("Elapsed", h)
		if err != nil {
			return 0, err
		}
		if !e.timing || e.last == nil {
			return 0, f.misused("Elapsed", driver.CodeInvalidHandle, "event %#x has no time", uintptr(h))
		}
		if !e.last.passed {
			return 0, f.fail("Elapsed", driver.CodeNotReady, "event %#x", uintptr(h))
		}
		at[i] = e.last.at
	}
	return at[1] - at[0], nil
}
