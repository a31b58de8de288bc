package engine

import (
	"errors"
	"time"

	"kigo/engine/device"
	"kigo/engine/kv"
)

// The memory of KV caches comes as blocks are wanted and goes when nobody does. It is
// the owner's, between steps: before a plan is made there is memory for all that it
// may want, or the scheduler knows that there is not, by the pool's limit, and has
// sequences wait or go as it does when the blocks run out.

const (
	// growAgain is how long a cache that could not grow waits before it tries again.
	growAgain = time.Second

	// giveBackAfter is after how long without a request a model gives its cache's
	// memory back, and loses the beginnings of prompts that it has kept. Once it is
	// replaced it does so at once, and before that where its successor does not fit
	// otherwise.
	giveBackAfter = 5 * time.Minute
)

// kvMemory is what the owner notes about a model's KV cache.
type kvMemory struct {
	short bool      // the device had no more the last time
	again time.Time // when to ask again
	idle  time.Time // since when there has been no request; zero: there is one, or nothing to give back
	least int       // blocks that there was memory for after it was trimmed last, or loaded
	full  int       // there is memory for at least so many blocks, from the first on
	left  bool      // it was trimmed after the model had been replaced
}

// supply sees to it that there is memory for the blocks that a model's next plan has a
// use for. While none can be had, again is when to look once more.
//
// Memory comes before a cached block is taken from whoever may ask for it; but not
// while another model is being loaded, which needs it more, and not once there is one.
//
// What can wait comes step by step: sequences that began together want a block at the same
// time, and no step should have to wait for the memory of all of them.
func (o *owner) supply(m *served, now time.Time) (again time.Time) {
	pool := m.sched.Pool()
	if pool.Limit() == pool.Total() {
		return again
	}
	wanted := m.sched.Wanted()
	needed := wanted > pool.Free()
	lack := wanted - (pool.Free() - pool.Cached())
	if lack <= 0 || !needed && (m.retired || o.engine.loading()) {
		return again
	}
	if !now.Before(m.memory.again) {
		part := (lack + pool.BlockSize() - 1) / pool.BlockSize() // a sequence wants a block in so many steps
		_ = o.grow(m, max(lack-m.sched.Later(), part))           // which has dealt with any error
	}
	if needed && m.memory.short {
		again = m.memory.again
	}
	return again
}

// grow has a model's cache grow by so many blocks, from the first ones on that there is
// no memory for, as far as it goes. An error that the device survives has been dealt
// with: there are fewer blocks, and the next try waits.
func (o *owner) grow(m *served, blocks int) error {
	pool := m.sched.Pool()
	full := m.memory.full
	err := o.eachChunk(m, full, func(from, to int) (more bool, err error) {
		if !m.cache.Mapped(from) {
			if err := m.cache.Map(from); err != nil {
				return false, err
			}
			blocks -= to - from
		}
		full = to
		return blocks > 0, nil
	})
	if fatalError(err) != nil || o.givenUp {
		return err
	}
	m.memory.full = full
	log := &o.engine.cfg.Log
	was := m.memory.short
	m.memory.short = err != nil
	switch {
	case err != nil:
		o.engine.stats.KVRefused.Add(1)
		m.memory.again = time.Now().Add(growAgain)
		if !was {
			log.Warn().Err(err).Str("model", m.info.Name).Int("blocks", pool.Limit()).Int("of", pool.Total()).
				Msg("no more memory for the KV cache; requests wait until there is, or until others end")
		}
	case was:
		log.Info().Str("model", m.info.Name).Int("blocks", pool.Limit()).Int("of", pool.Total()).
			Msg("there is memory for the KV cache again")
	}
	return err
}

// trim gives back the memory of a model's cache in which nobody holds a block, when no
// step is under way.
func (o *owner) trim(m *served) error {
	if o.settle(); o.givenUp {
		return errGivenUp
	}
	if failure := o.engine.failureNow(); failure != nil {
		return failure
	}
	pool := m.sched.Pool()
	before := m.cache.Bytes()
	err := o.eachChunk(m, 0, func(from, to int) (more bool, err error) {
		if !m.cache.Mapped(from) || pool.Held(from, to) {
			return true, nil
		}
		return true, m.cache.Unmap(from)
	})
	if fatalError(err) != nil || o.givenUp {
		return err
	}
	m.memory = kvMemory{least: pool.Limit(), left: m.retired}
	o.hasMemory()
	log := o.engine.cfg.Log.Debug()
	if err != nil {
		log = o.engine.cfg.Log.Warn().Err(err)
	}
	log.Str("model", m.info.Name).Uint64("bytes", before-m.cache.Bytes()).Msg("memory of the KV cache given back")
	return err
}

// eachChunk changes the memory of a cache's chunks, from the one that begins with a block
// on, as long as there is more to change and up to an error, and tells the pool and Status
// what there is.
func (o *owner) eachChunk(m *served, first int, change func(from, to int) (more bool, err error)) error {
	var changed [][2]int
	err := o.inDevice(time.Now(), m.times.limit(o.engine.cfg.StepLimit), func() error {
		for from, to, more := 0, first, true; more && to < m.cache.Blocks(); {
			var err error
			from, to = m.cache.Chunk(to)
			before := m.cache.Mapped(from)
			more, err = change(from, to)
			switch last := len(changed) - 1; {
			case m.cache.Mapped(from) == before:
			case last >= 0 && changed[last][1] == from:
				changed[last][1] = to // the pool takes many chunks at the price of one
			default:
				changed = append(changed, [2]int{from, to})
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if o.givenUp {
		return err
	}
	if failure := fatalError(err); failure != nil {
		o.engine.fail(failure)
		o.endAll(failure)
		return failure
	}
	for _, c := range changed {
		err = errors.Join(err, m.sched.Pool().SetMemory(c[0], c[1], m.cache.Mapped(c[0])))
	}
	m.kvBytes.Store(m.cache.Bytes())
	return err
}

// giveBack trims the caches of models that have been replaced, and of those that have
// had nothing to do for long, and says when to look again.
func (o *owner) giveBack(now time.Time) (next time.Time) {
	if o.engine.failureNow() != nil {
		return next
	}
	for _, m := range o.models {
		if !m.retired || m.memory.left {
			if m.sched.Running()+m.sched.Waiting() > 0 || m.sched.Pool().Limit() <= m.memory.least {
				m.memory.idle = time.Time{}
				continue
			}
			if m.memory.idle.IsZero() {
				m.memory.idle = now
			}
			if due := m.memory.idle.Add(giveBackAfter); now.Before(due) {
				next = earlier(next, due)
				continue
			}
		}
		if err := o.trim(m); fatalError(err) != nil || o.givenUp {
			break
		}
	}
	return next
}

// makeRoom gives back what the models' caches do not hold, for one that does not fit
// otherwise.
func (o *owner) makeRoom() error {
	for _, m := range o.models {
		if err := o.trim(m); fatalError(err) != nil || o.givenUp {
			return err
		}
	}
	o.publish() // before the load goes on, which may look at what there is
	return nil
}

// hasMemory has models that could not have any look again at once.
func (o *owner) hasMemory() {
	for _, m := range o.models {
		m.memory.again = time.Time{}
	}
}

// loading says whether a model is being loaded.
func (e *Engine) loading() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.flight != nil
}

// replaced is the device memory that goes with the model that is in service, once
// another one has taken its place.
func (e *Engine) replaced() uint64 {
	m := e.servingNow()
	if m == nil {
		return 0
	}
	use := m.describe().Memory
	return use.Weights + use.KV + use.Scratch
}

// newKV makes a model's cache, with memory for the first token, and its pool.
func newKV(dev device.Device, p *plan) (device.Cache, *kv.Pool, error) {
	c, err := dev.NewCache(p.shape, p.blocks)
	if err != nil {
		return nil, nil, err
	}
	pool := kv.NewPool(p.blocks, blockTokens)
	from, to := c.Chunk(0)
	if err := errors.Join(c.Map(0), pool.SetMemory(0, p.blocks, false), pool.SetMemory(from, to, true)); err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return c, pool, nil
}
