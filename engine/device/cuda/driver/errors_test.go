package driver

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestCodes(t *testing.T) {
	for _, tc := range []struct {
		code Code
		text string
	}{
		{0, "CUDA_SUCCESS (0)"},
		{CodeOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY (2)"},
		{CodeIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS (700)"},
		{803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"},
		{CodeUnknown, "CUDA_ERROR_UNKNOWN (999)"},
		{12345, "CUDA error 12345"},
		{-1, "CUDA error -1"},
	} {
		if got := tc.code.Error(); got != tc.text {
			t.Errorf("%d: %q, want %q", int32(tc.code), got, tc.text)
		}
	}
	fatal := map[Code]bool{214: true, 220: true, 226: true, 700: true, 702: true, 710: true, 714: true, 715: true, 716: true, 717: true, 718: true, 719: true, 721: true, 911: true, 999: true}
	for code := Code(-1); code < 1100; code++ {
		if code.Fatal() != fatal[code] {
			t.Errorf("%v: fatal is %t", code, code.Fatal())
		}
	}
}

func TestErrorIs(t *testing.T) {
	all := []error{ErrFatal, ErrOutOfMemory, ErrNotSupported, ErrClosed, CodeNotFound, CodeIllegalAddress, CodeOutOfMemory, CodeNotSupported, Code(0)}
	var l Latch
	for _, tc := range []struct {
		err  error
		is   []error
		text string
	}{
		{l.Note("cuMemAlloc", CodeOutOfMemory, "4096 bytes"), []error{ErrOutOfMemory, CodeOutOfMemory}, "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (2): 4096 bytes"},
		{l.Note("cuX", CodeNotSupported, ""), []error{ErrNotSupported, CodeNotSupported}, "cuX: CUDA_ERROR_NOT_SUPPORTED (801)"},
		{l.Note("cuX", CodeNotFound, ""), []error{CodeNotFound}, "cuX: CUDA_ERROR_NOT_FOUND (500)"},
		{l.Note("cuX", CodeIllegalAddress, ""), []error{ErrFatal, CodeIllegalAddress}, "cuX: CUDA_ERROR_ILLEGAL_ADDRESS (700)"},
		{l.Refuse("cuY"), []error{ErrFatal, CodeIllegalAddress}, "cuY not called: the context has failed: cuX: CUDA_ERROR_ILLEGAL_ADDRESS (700)"},
	} {
		if tc.err.Error() != tc.text {
			t.Errorf("%q, want %q", tc.err, tc.text)
		}
		wrapped := fmt.Errorf("around: %w", tc.err)
		for _, target := range all {
			want := false
			for _, is := range tc.is {
				want = want || is == target
			}
			if errors.Is(wrapped, target) != want {
				t.Errorf("%v: errors.Is(%v) is %t", tc.err, target, !want)
			}
		}
	}
}

// Of many threads that fail at once, one is the first, and all are told of that
// one from then on.
func TestLatchConcurrent(t *testing.T) {
	var l Latch
	if err := l.Failed(); err != nil {
		t.Fatal(err)
	}
	if e := l.Refuse("cuX"); e != nil {
		t.Fatal(e)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 100 {
				l.Note(fmt.Sprintf("call %d.%d", i, n), CodeLaunchFailed, "")
			}
		})
	}
	wg.Wait()
	first := l.Failed()
	if !errors.Is(first, ErrFatal) || !strings.HasSuffix(first.(*Error).Call, ".0") {
		t.Fatalf("first failure %v", first)
	}
	if e := l.Refuse("cuX"); !errors.Is(e, first) || !errors.Is(e, ErrFatal) {
		t.Fatalf("refused with %v, first failure %v", e, first)
	}
	l.Close()
	if e := l.Refuse("cuX"); !errors.Is(e, ErrFatal) {
		t.Fatalf("after Close: %v, want the failure", e)
	}
	var closed Latch
	closed.Close()
	if e := closed.Refuse("cuX"); !errors.Is(e, ErrClosed) || errors.Is(e, ErrFatal) || e.Error() != "cuX: the CUDA driver is closed" {
		t.Fatalf("closed: %v", e)
	}
}
