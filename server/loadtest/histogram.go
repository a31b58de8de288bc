package loadtest

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// Buckets of a histogram: one a nanosecond up to 2^subBits, then 2^(subBits-1) in
// each doubling. A bucket is at most 1/128 of its values wide, so that its middle is
// off by no more than HistogramError of them.
const (
	subBits = 8
	topBit  = 43 // durations of 2.4 hours and more share the last bucket
	buckets = (topBit-subBits)<<(subBits-1) + 1<<subBits
)

// HistogramError is how far a percentile may be from the exact one, relative to it.
const HistogramError = 1.0 / 256

// histogram counts durations in a fixed amount of memory (36 KiB). Its least and its
// largest value, its count and its sum are exact. Any number of goroutines may add
// at a time; who reads does so when they have ended.
type histogram struct {
	counts   [buckets]atomic.Uint64
	sum      atomic.Int64
	least    atomic.Int64 // one less than it is, so that zero means that there is none
	greatest atomic.Int64
}

func bucketOf(ns int64) int {
	v := uint64(max(ns, 0))
	shift := max(bits.Len64(v)-subBits, 0)
	return min(shift<<(subBits-1)+int(v>>shift), buckets-1)
}

// middleOf is the middle of a bucket's values.
func middleOf(bucket int) int64 {
	if bucket < 1<<subBits {
		return int64(bucket)
	}
	shift := bucket>>(subBits-1) - 1
	first := int64(bucket-shift<<(subBits-1)) << shift
	return first + (int64(1)<<shift-1)/2
}

func (h *histogram) add(d time.Duration) {
	ns := min(max(int64(d), 0), math.MaxInt64-1)
	h.counts[bucketOf(ns)].Add(1)
	h.sum.Add(ns)
	for {
		least := h.least.Load()
		if least != 0 && least <= ns+1 || h.least.CompareAndSwap(least, ns+1) {
			break
		}
	}
	for {
		greatest := h.greatest.Load()
		if greatest >= ns || h.greatest.CompareAndSwap(greatest, ns) {
			break
		}
	}
}

// Latency is how durations are distributed, in milliseconds. A percentile is the
// least duration that so many of all do not exceed, to within HistogramError; the
// rest is exact. All are 0 where Count is.
type Latency struct {
	Count uint64  `json:"count"`
	Mean  float64 `json:"mean"`
	Min   float64 `json:"min"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	Max   float64 `json:"max"`
}

func (h *histogram) latency() Latency {
	var l Latency
	for i := range h.counts {
		l.Count += h.counts[i].Load()
	}
	if l.Count == 0 {
		return l
	}
	least, greatest := h.least.Load()-1, h.greatest.Load()
	l.Min, l.Max = milliseconds(least), milliseconds(greatest)
	l.Mean = milliseconds(h.sum.Load()) / float64(l.Count)
	for _, p := range []struct {
		percent uint64
		to      *float64
	}{{50, &l.P50}, {90, &l.P90}, {99, &l.P99}} {
		rank := (l.Count*p.percent + 99) / 100
		*p.to = milliseconds(min(max(h.at(rank), least), greatest))
	}
	return l
}

// at is the middle of the bucket that holds the rank-th smallest value.
func (h *histogram) at(rank uint64) int64 {
	seen := uint64(0)
	for i := range h.counts {
		if seen += h.counts[i].Load(); seen >= rank {
			return middleOf(i)
		}
	}
	return h.greatest.Load()
}

func milliseconds(ns int64) float64 { return float64(ns) / 1e6 }
