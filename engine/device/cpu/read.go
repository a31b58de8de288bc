package cpu

import (
	"sync"
	"time"
	"unsafe"
)

// MemoryRead measures how many GB/s so many threads read in order from memory
// that does not fit the caches, in large pages like the weights: what bounds a
// step of one row. It takes 96 MiB a thread for the time.
func MemoryRead(threads, runs int) ([]float64, error) {
	const each = 96 << 20
	mem, err := allocate(threads * each)
	if err != nil {
		return nil, err
	}
	defer mem.free() //nolint:errcheck // a mapping of our own
	mem.wantHugePages()
	words := unsafe.Slice((*uint64)(unsafe.Pointer(&mem.bytes[0])), threads*each/8)
	for i := range words { // pages that nobody has written are all one page of zeros
		words[i] = uint64(i)
	}
	sums := make([]uint64, threads)
	var rates []float64
	for range runs + 1 {
		start := time.Now()
		var readers sync.WaitGroup
		for i := range threads {
			readers.Go(func() { sums[i] = readWords(words[i*each/8 : (i+1)*each/8]) })
		}
		readers.Wait()
		rates = append(rates, float64(each*threads)/time.Since(start).Seconds()/1e9)
	}
	return rates[1:], nil // the first finds the threads asleep
}

// readWords reads a cache line at a time.
func readWords(words []uint64) uint64 {
	var a, b, c, d uint64
	for len(words) >= 8 {
		w := (*[8]uint64)(words)
		a, b, c, d = a^w[0]^w[4], b^w[1]^w[5], c^w[2]^w[6], d^w[3]^w[7]
		words = words[8:]
	}
	return a ^ b ^ c ^ d
}
