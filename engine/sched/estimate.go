package sched

// times is what steps took, and how many a sequence needs. The arithmetic is in
// float64, with every product converted, so that no machine fuses it with a sum
// and plans differently.
type times struct {
	// Sums over the steps, each step's part shrinking with every later one: of
	// 1, rows, ns, rows squared, rows times ns.
	n, r, t, rr, rt float64

	lived float64 // mean of the steps that sequences were running for
	lives int
}

const (
	// keptOfSteps makes the last hundred steps or so count.
	keptOfSteps = 1 - 1.0/64

	// keptOfLives does so for the last dozen sequences.
	keptOfLives = 1 - 1.0/16

	unknownRetry = 1e9  // ns to wait when nothing has been measured
	longestRetry = 60e9 // ns to wait at most
	longest      = 1e18 // ns that an estimate can be
)

// step takes in a step of so many rows.
func (t *times) step(rows int, ns int64) {
	r, d := float64(rows), float64(max(ns, 0))
	t.n = float64(t.n*keptOfSteps) + 1
	t.r = float64(t.r*keptOfSteps) + r
	t.t = float64(t.t*keptOfSteps) + d
	t.rr = float64(t.rr*keptOfSteps) + float64(r*r)
	t.rt = float64(t.rt*keptOfSteps) + float64(r*d)
}

// life takes in a sequence that is gone.
func (t *times) life(steps float64) {
	if t.lives++; t.lives == 1 {
		t.lived = steps
		return
	}
	t.lived = float64(t.lived*keptOfLives) + float64(steps*(1-keptOfLives))
}

// of is how long a step of so many rows takes, in ns: the line through what was
// measured, by least squares. Where all steps had the same number of rows there is
// no line, and the estimate their mean.
func (t *times) of(rows int) float64 {
	if t.n == 0 {
		return 0
	}
	spread := float64(t.n*t.rr) - float64(t.r*t.r)
	if spread < float64(1e-6*float64(t.r*t.r)) {
		return t.t / t.n
	}
	perRow := max(0, (float64(t.n*t.rt)-float64(t.r*t.t))/spread)
	fixed := (t.t - float64(perRow*t.r)) / t.n
	if fixed < 0 {
		fixed, perRow = 0, t.t/t.r
	}
	return fixed + float64(perRow*float64(rows))
}

// interval is how often a running sequence leaves, in ns; 0 where that is unknown.
func (s *Scheduler) interval() float64 {
	t := &s.times
	if t.n == 0 || t.lives == 0 {
		return 0
	}
	return float64(t.lived*(t.t/t.n)) / float64(max(len(s.running), 1))
}

// Retry is how long it will be until there should be room for one sequence more, in
// ns, if there is none.
func (s *Scheduler) Retry() int64 { return s.retry(1) }

// retry is how long it will be until so many sequences have left.
func (s *Scheduler) retry(n int) int64 {
	every := s.interval()
	if every == 0 {
		return unknownRetry
	}
	return int64(min(max(float64(every*float64(n)), s.times.of(1)), longestRetry))
}

// firstToken is how long it will be until a new sequence has its first token, of
// whose prompt so many rows are to be computed: until it has a place, and until
// the rows before its own and these are through. It is 0 where nothing has been
// measured.
func (s *Scheduler) firstToken(fresh, priority int) int64 {
	if s.times.n == 0 {
		return 0
	}
	places, rows := 1-(s.cfg.MaxRunning-len(s.running)), fresh
	for i := priority - MinPriority; i < classes; i++ {
		places += s.classes[i].waiting
		rows += s.classes[i].rows
	}
	single := 0
	for _, q := range s.running {
		switch {
		case q.paused:
		case q.rowsLeft() > 1:
			rows += q.rowsLeft()
		default:
			single++
		}
	}
	chunk := s.cfg.MaxRows
	if single > 0 {
		chunk = max(1, min(s.cfg.ChunkRows, s.cfg.MaxRows-single))
	}
	wait := float64(float64(rows/chunk) * s.times.of(chunk+single))
	if rest := rows % chunk; rest > 0 {
		wait += s.times.of(rest + single)
	}
	if places > 0 {
		wait += float64(s.interval() * float64(places))
	}
	return int64(min(wait, longest))
}
