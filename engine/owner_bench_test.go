package engine_test

import (
	"fmt"
	"sync"
	"testing"

	"kigo/engine"
	"kigo/engine/device/scripted"
)

// BenchmarkOwner is what the engine adds to a token, readers included: all of it is
// the host's, because the device takes no time.
func BenchmarkOwner(b *testing.B) {
	for _, streams := range []int{1, 32, 256} {
		b.Run(fmt.Sprint(streams), func(b *testing.B) {
			const tokens = 200
			e := paced(b, engine.Config{MaxConcurrent: streams, CacheTokens: streams * 256, ChunkRows: 4096, StreamBuffer: 1024}, scripted.Pace{})
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				var all sync.WaitGroup
				for i := range streams {
					s, err := e.Submit(b.Context(), pacedRequest(i, 6, 0, tokens))
					if err != nil {
						b.Fatal(err)
					}
					all.Go(func() {
						if _, err := readWhole(b.Context(), s); err != nil {
							b.Error(err)
						}
					})
				}
				all.Wait()
				n += streams * tokens
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/token")
			b.ReportMetric(0, "ns/op")
		})
	}
}
