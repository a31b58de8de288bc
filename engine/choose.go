package engine

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"kigo/engine/device"
)

// choice is memory for choosing the next tokens of a step's sequences. Of most rows the
// device finds the largest logit, or draws the token with the step; for some it is asked
// to draw afterwards, or for all logits.
type choice struct {
	draws []device.Draw
	of    []*part // whose draws they are
	full  []piece
	rows  []int
}

// piece is some rows of the logits of one part: count of them, from at on. They are
// row and those after it of what was fetched.
type piece struct {
	p         *part
	at, count int
	row       int
}

// fetchedRows is how many rows of logits are brought to the host at a time.
const fetchedRows = 64

// How many rows are worth another goroutine: planning a draw takes a microsecond or
// two where there are penalties, choosing among all logits a hundred and more.
const (
	drawsEach = 32
	fullEach  = 2
)

// chooseOn waits for a step that has begun and chooses its sequences' next tokens. Once it
// is passed by the one after it, the largest logits and what was drawn with it are all that
// can be had.
func (o *owner) chooseOn(b *batch, passed bool) error {
	c := b.on
	var largest []device.Ranked
	if err := o.inStep(b, o.began(b), func() (err error) {
		largest, err = c.Largest()
		return err
	}); err != nil {
		return err
	}
	o.stepEnded(b)
	drawn := c.Drawn()
	k := &b.choice
	k.of, k.full = k.of[:0], k.full[:0]
	for i := range b.parts {
		p := &b.parts[i]
		switch l := largest[p.first]; {
		case p.q.ended, p.void:
		case p.prompt:
			k.full = append(k.full, piece{p: p, count: p.count})
		case p.draw >= 0 && drawn[p.draw] >= 0:
			p.id = drawn[p.draw]
		case p.draw >= 0 && !passed:
			k.full = append(k.full, piece{p: p, count: 1})
		case p.q.takesLargest(l.ID, l.Logit):
			p.id = l.ID
		case passed:
			p.missed = true
		default:
			k.of = append(k.of, p)
		}
	}
	if err := o.chooseDrawn(b, c); err != nil {
		return err
	}
	return o.chooseFull(b, c)
}

// chooseDrawn has the device draw for those for whom it can. The others join those who
// need all logits.
func (o *owner) chooseDrawn(b *batch, c device.Chooser) error {
	k := &b.choice
	share(len(k.of), drawsEach, func(i int) {
		p := k.of[i]
		defer o.spoiled(p)
		p.plan = p.q.plan()
	})
	k.draws = k.draws[:0]
	for _, p := range k.of {
		if p.plan != nil {
			k.draws = append(k.draws, device.Draw{Row: p.first, Plan: p.plan})
		}
	}
	if len(k.draws) > 0 {
		var ids []int32
		if err := o.inStep(b, time.Now(), func() (err error) {
			ids, err = c.Draw(k.draws)
			return err
		}); err != nil {
			return err
		}
		for _, p := range k.of {
			if p.plan != nil {
				p.id, ids = ids[0], ids[1:]
			}
		}
	}
	clear(k.draws) // which hold plans
	for _, p := range k.of {
		if p.id < 0 && p.err == nil {
			k.full = append(k.full, piece{p: p, count: 1})
		}
	}
	return nil
}

// chooseFull fetches the logits of those who need them, as many rows at a time as
// there shall be memory for.
func (o *owner) chooseFull(b *batch, c device.Chooser) error {
	k := &b.choice
	for len(k.full) > 0 {
		k.rows = k.rows[:0]
		n := 0
		for ; n < len(k.full) && len(k.rows) < fetchedRows; n++ {
			f := &k.full[n]
			f.row = len(k.rows)
			rows := min(f.count, fetchedRows-len(k.rows))
			for r := range rows {
				k.rows = append(k.rows, f.p.first+f.at+r)
			}
			if rows < f.count { // the rest of it comes with the next ones
				k.full = append(k.full, piece{})
				copy(k.full[n+1:], k.full[n:])
				f = &k.full[n]
				k.full[n+1].at, k.full[n+1].count = f.at+rows, f.count-rows
				f.count = rows
			}
		}
		var logits []float32
		if err := o.inStep(b, time.Now(), func() (err error) {
			logits, err = c.Fetch(k.rows)
			return err
		}); err != nil {
			return err
		}
		o.read(k.full[:n], logits, b.model.width)
		k.full = k.full[n:]
	}
	return nil
}

// chooseAll chooses from all logits of a step.
func (o *owner) chooseAll(b *batch, logits []float32) {
	k := &b.choice
	k.full = k.full[:0]
	for i := range b.parts {
		if p := &b.parts[i]; !p.q.ended {
			k.full = append(k.full, piece{p: p, count: p.count, row: p.first})
		}
	}
	o.read(k.full, logits, b.model.width)
}

// read takes logits in, rows of width.
func (o *owner) read(pieces []piece, all []float32, width int) {
	all = all[:len(all):len(all)]
	share(len(pieces), fullEach, func(i int) {
		f := &pieces[i]
		p := f.p
		defer o.spoiled(p)
		logits := all[f.row*width : (f.row+f.count)*width]
		if p.prompt && p.err == nil {
			p.q.promptEvent, p.err = p.q.readPrompt(p.start+f.at, logits, width)
		}
		if p.next && f.at+f.count == p.count && p.err == nil {
			p.id, p.logprobs, p.err = p.q.sample(logits[len(logits)-width:])
		}
	})
}

// spoiled has a panic in the sampler end the one stream that it belongs to.
func (o *owner) spoiled(p *part) {
	if r := recover(); r != nil {
		o.engine.cfg.Log.Error().Str("request", p.q.stream.started.ID).Str("panic", fmt.Sprint(r)).Msg("sampling panicked")
		p.err = fmt.Errorf("%w: sampling panicked", ErrInternal)
	}
}

// share calls f for each number below n, from several goroutines where there are
// more than each of them should have, and returns when all calls have.
func share(n, each int, f func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n/each)
	if workers < 2 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	work := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			f(i)
		}
	}
	var wait sync.WaitGroup
	for range workers - 1 {
		wait.Go(work)
	}
	work()
	wait.Wait()
}

// take makes what was chosen for a sequence part of it.
func (o *owner) take(p *part, now time.Time) {
	q := p.q
	if p.next {
		q.coming--
	}
	switch {
	case q.ended:
		return
	case p.err != nil:
		o.end(q, p.err)
		return
	case p.id < 0:
		if q.promptEvent != nil {
			o.news = append(o.news, q)
		}
		return
	}
	o.news = append(o.news, q)
	more := q.accept(p.id, p.logprobs, now)
	if q.news.stop == StopUnknown {
		o.engine.tokens.Add(1)
		o.engine.stats.token(q)
	}
	if !more {
		q.model.sched.Remove(q.id) // its blocks are free at once
		return
	}
	if err := q.model.sched.Grow(q.id, p.id); err != nil {
		o.end(q, fmt.Errorf("%w: %w", ErrInternal, err))
	}
}

// tellAll tells readers what the latest step has brought.
func (o *owner) tellAll() {
	for i, q := range o.news {
		o.news[i] = nil
		o.tell(q)
	}
	o.news = o.news[:0]
}

// tell tells a sequence's reader what is news, if anything is. A panic in the text's
// assembly ends this one stream.
func (o *owner) tell(q *sequence) {
	if q.ended || !q.news.some && q.promptEvent == nil {
		return
	}
	defer func() {
		if r := recover(); r != nil {
			o.engine.cfg.Log.Error().Str("request", q.stream.started.ID).Str("panic", fmt.Sprint(r)).Msg("assembling text panicked")
			q.news = news{}
			o.end(q, fmt.Errorf("%w: assembling text panicked", ErrInternal))
		}
	}()
	held := 0
	if ev := q.promptEvent; ev != nil {
		q.promptEvent = nil
		held = q.stream.push(*ev)
	}
	if !q.news.some {
		return
	}
	event, end, err := q.tell()
	if err != nil {
		o.end(q, err)
		return
	}
	if event != nil {
		held = q.stream.push(Event{Tokens: event})
	}
	if end != nil {
		o.finish(q, end)
		return
	}
	// The tokens that steps under way will bring need room, too, and so do those of the
	// step that begins before the next look.
	s := q.stream
	held += s.coming()
	if _, paused := o.paused[s]; !paused && held > s.buffer-s.left && s.wait() {
		o.pause(s)
	}
}
