package loadtest

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"
)

// Values that have a bucket of their own: every figure is exact.
func TestHistogramOfKnownValues(t *testing.T) {
	var h histogram
	if l := h.latency(); l != (Latency{}) {
		t.Errorf("of nothing: %+v", l)
	}
	h.add(0)
	if l := h.latency(); l != (Latency{Count: 1}) {
		t.Errorf("of one zero: %+v", l)
	}
	h = histogram{}
	order := rand.New(rand.NewPCG(3, 4)).Perm(100)
	var all sync.WaitGroup // as streams do it: several at a time
	for part := range slices.Chunk(order, 10) {
		all.Go(func() {
			for _, i := range part {
				h.add(time.Duration(i + 1)) // 1 to 100 ns
			}
		})
	}
	all.Wait()
	want := Latency{Count: 100, Mean: 50.5e-6, Min: 1e-6, P50: 50e-6, P90: 90e-6, P99: 99e-6, Max: 100e-6}
	if l := h.latency(); l != want {
		t.Errorf("of 1 to 100 ns: %+v, want %+v", l, want)
	}
}

// Of any values, percentiles are those of the sorted list to within HistogramError.
func TestHistogramAgainstSortedValues(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, draw := range []func() time.Duration{
		func() time.Duration { return time.Duration(r.ExpFloat64() * float64(20*time.Millisecond)) },
		func() time.Duration { return time.Duration(math.Exp2(r.Float64() * 42)) },
		func() time.Duration { return 17 * time.Millisecond },
	} {
		for _, n := range []int{1, 2, 3, 99, 100, 101, 5000} {
			var h histogram
			values := make([]time.Duration, n)
			sum := 0.0
			for i := range values {
				values[i] = draw()
				h.add(values[i])
				sum += float64(values[i])
			}
			slices.Sort(values)
			l := h.latency()
			exact := func(name string, got float64, want time.Duration, tolerance float64) {
				if ms := float64(want) / 1e6; math.Abs(got-ms) > ms*tolerance+1e-9 {
					t.Errorf("%s of %d values is %v ms, want %v", name, n, got, ms)
				}
			}
			rank := func(percent int) time.Duration { return values[(n*percent+99)/100-1] }
			exact("p50", l.P50, rank(50), HistogramError)
			exact("p90", l.P90, rank(90), HistogramError)
			exact("p99", l.P99, rank(99), HistogramError)
			exact("min", l.Min, values[0], 0)
			exact("max", l.Max, values[n-1], 0)
			exact("mean", l.Mean, time.Duration(sum/float64(n)), 1e-6)
		}
	}
}

// Buckets are in order, without a hole, and what is out of all bounds has one.
func TestBuckets(t *testing.T) {
	last := -1
	for v := int64(0); v < 1<<20; v++ {
		b := bucketOf(v)
		if b < last || b > last+1 {
			t.Fatalf("%d ns is in bucket %d after %d", v, b, last)
		}
		if e := math.Abs(float64(middleOf(b) - v)); e > float64(v)*HistogramError {
			t.Fatalf("%d ns is in the bucket around %d", v, middleOf(b))
		}
		last = b
	}
	if bucketOf(-1) != 0 || bucketOf(math.MaxInt64) != buckets-1 || bucketOf(int64(2*time.Hour)) >= buckets-1 {
		t.Errorf("buckets %d, %d, %d of %d", bucketOf(-1), bucketOf(math.MaxInt64), bucketOf(int64(2*time.Hour)), buckets)
	}
	var h histogram
	h.add(-time.Second)
	h.add(math.MaxInt64)
	if l := h.latency(); l.Count != 2 || l.Min != 0 || l.P50 != 0 || l.P99 < 3e6 {
		t.Errorf("%+v", l)
	}
}
