package fakedriver

import (
	"cmp"
	"slices"

	"kigo/engine/device/cuda/driver"
)

// chunk is physical memory.
type chunk struct {
	data     []byte
	at       *mapping // nil: not mapped
	released bool
}

// mapping is a chunk in a reservation. The data of neighbours lie beside each
// other, so that a kernel sees them as one slice.
type mapping struct {
	base   driver.Ptr
	size   uint64
	chunk  *chunk
	run    *run
	access bool
}

// run is the memory behind neighbours.
type run struct {
	base driver.Ptr
	data []byte
}

// view is the memory of a reservation, or bad where some of it is not mapped or
// not accessible.
func (r *region) view(p driver.Ptr, n uint64, bad error) ([]byte, error) {
	end := p + driver.Ptr(n)
	var first *mapping
	at := p
	for _, m := range r.mapped {
		if at < m.base || at >= m.base+driver.Ptr(m.size) {
			continue
		}
		if !m.access {
			return nil, bad
		}
		if first == nil {
			first = m
		}
		if at = m.base + driver.Ptr(m.size); at >= end {
			break
		}
	}
	if first == nil || at < end {
		return nil, bad
	}
	off := uint64(p - first.run.base)
	return first.run.data[off : off+n : off+n], nil
}

// join puts the data of a new mapping beside that of its neighbours.
func (r *region) join(m *mapping) {
	i := slices.Index(r.mapped, m)
	from, to := i, i+1
	adjacent := func(a, b int) bool { return r.mapped[a].base+driver.Ptr(r.mapped[a].size) == r.mapped[b].base }
	for from > 0 && adjacent(from-1, from) {
		from--
	}
	for to < len(r.mapped) && adjacent(to-1, to) {
		to++
	}
	all := &run{base: r.mapped[from].base}
	for _, x := range r.mapped[from:to] {
		all.data = append(all.data, x.chunk.data...)
	}
	for _, x := range r.mapped[from:to] {
		off := uint64(x.base - all.base)
		x.run, x.chunk.data = all, all.data[off:off+x.size:off+x.size]
	}
}

func (f *Driver) aligned(n ...uint64) bool {
	for _, n := range n {
		if n%f.cfg.Granularity != 0 {
			return false
		}
	}
	return true
}

func (f *Driver) Granularity(ordinal int) (uint64, error) {
	if err := f.enter("Granularity", context); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	if ordinal < 0 || ordinal >= f.cfg.Devices {
		return 0, f.fail("Granularity", driver.CodeInvalidDevice, "device %d", ordinal)
	}
	return f.cfg.Granularity, nil
}

func (f *Driver) Reserve(n uint64) (driver.Ptr, error) {
	if err := f.enter("Reserve", allowed); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	if n == 0 || n > 1<<46 || !f.aligned(n) {
		return 0, f.misused("Reserve", driver.CodeInvalidValue, "%d bytes", n)
	}
	r := &region{size: n, reserved: true}
	f.place(r, f.cfg.Granularity)
	return r.base, nil
}

func (f *Driver) FreeReservation(p driver.Ptr, n uint64) error {
	if err := f.enter("FreeReservation", allowed); err != nil {
		return err
	}
	defer f.mu.Unlock()
	r := f.region(p)
	if r == nil || !r.reserved || r.base != p || r.size != n || len(r.mapped) > 0 {
		return f.misused("FreeReservation", driver.CodeInvalidValue, "%d bytes at %#x are no reservation without mappings", n, uint64(p))
	}
	f.space = slices.DeleteFunc(f.space, func(x *region) bool { return x == r })
	return nil
}

func (f *Driver) Create(ordinal int, n uint64) (driver.Chunk, error) {
	if err := f.enter("Create", allowed); err != nil {
		return 0, err
	}
	defer f.mu.Unlock()
	if ordinal < 0 || ordinal >= f.cfg.Devices {
		return 0, f.fail("Create", driver.CodeInvalidDevice, "device %d", ordinal)
	}
	if n == 0 || !f.aligned(n) {
		return 0, f.misused("Create", driver.CodeInvalidValue, "%d bytes", n)
	}
	if err := f.take("Create", n); err != nil {
		return 0, err
	}
	h := driver.Chunk(f.id())
	f.chunks[h] = &chunk{data: poisoned(n)}
	return h, nil
}

func (f *Driver) ReleaseChunk(h driver.Chunk) error {
	if err := f.enter("ReleaseChunk", allowed); err != nil {
		return err
	}
	defer f.mu.Unlock()
	c := f.chunks[h]
	if c == nil {
		return f.misused("ReleaseChunk", driver.CodeInvalidHandle, "chunk %#x", uint64(h))
	}
	delete(f.chunks, h)
	c.released = true
	if c.at == nil {
		f.used -= uint64(len(c.data))
	}
	return nil
}

func (f *Driver) Map(p driver.Ptr, h driver.Chunk, n uint64) error {
	if err := f.enter("Map", allowed); err != nil {
		return err
	}
	defer f.mu.Unlock()
	c := f.chunks[h]
	if c == nil {
		return f.misused("Map", driver.CodeInvalidHandle, "chunk %#x", uint64(h))
	}
	r := f.region(p)
	if r == nil || !r.reserved || !f.aligned(uint64(p)) || n != uint64(len(c.data)) || n > r.size-uint64(p-r.base) || c.at != nil {
		return f.misused("Map", driver.CodeInvalidValue, "%d bytes at %#x", n, uint64(p))
	}
	for _, m := range r.mapped {
		if p < m.base+driver.Ptr(m.size) && m.base < p+driver.Ptr(n) {
			return f.misused("Map", driver.CodeInvalidValue, "%d bytes at %#x are mapped already", n, uint64(p))
		}
	}
	m := &mapping{base: p, size: n, chunk: c}
	c.at = m
	r.mapped = append(r.mapped, m)
	slices.SortFunc(r.mapped, func(a, b *mapping) int { return cmp.Compare(a.base, b.base) })
	r.join(m)
	return nil
}

func (f *Driver) SetAccess(ordinal int, p driver.Ptr, n uint64) error {
	if err := f.enter("SetAccess", allowed); err != nil {
		return err
	}
	defer f.mu.Unlock()
	if ordinal < 0 || ordinal >= f.cfg.Devices {
		return f.fail("SetAccess", driver.CodeInvalidDevice, "device %d", ordinal)
	}
	covered := uint64(0)
	var inside []*mapping
	if r := f.region(p); r != nil {
		for _, m := range r.mapped {
			if p <= m.base && m.base+driver.Ptr(m.size) <= p+driver.Ptr(n) {
				inside = append(inside, m)
				covered += m.size
			}
		}
	}
	if n == 0 || covered != n {
		return f.misused("SetAccess", driver.CodeInvalidValue, "%d bytes at %#x are not what is mapped", n, uint64(p))
	}
	for _, m := range inside {
		m.access = true
	}
	return nil
}

func (f *Driver) Unmap(p driver.Ptr, n uint64) error {
	if err := f.enter("Unmap", allowed); err != nil {
		return err
	}
	defer f.mu.Unlock()
	r := f.region(p)
	if r != nil {
		for i, m := range r.mapped {
			if m.base == p && m.size == n {
				r.mapped = slices.Delete(r.mapped, i, i+1)
				if m.chunk.at = nil; m.chunk.released {
					f.used -= n
				}
				return nil
			}
		}
	}
	return f.misused("Unmap", driver.CodeInvalidValue, "%d bytes at %#x are no mapping", n, uint64(p))
}
