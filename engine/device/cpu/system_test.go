package cpu

import "testing"

// A process that may have less than its machine has is told what it may have.
func TestMemoryWithinALimit(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		what                     string
		limit, used, total, free uint64
		wantTotal, wantFree      uint64
	}{
		{"less than the machine's", 4 * gib, gib, 64 * gib, 50 * gib, 4 * gib, 3 * gib},
		{"more than the machine has free", 8 * gib, gib, 64 * gib, 2 * gib, 8 * gib, 2 * gib},
		{"more than the machine's", 128 * gib, gib, 64 * gib, 50 * gib, 64 * gib, 50 * gib},
		{"used up", gib, 2 * gib, 64 * gib, 50 * gib, gib, 0},
		{"of a machine that does not tell", 4 * gib, gib, 0, 0, 4 * gib, 3 * gib},
	} {
		if total, free := within(c.limit, c.used, c.total, c.free); total != c.wantTotal || free != c.wantFree {
			t.Errorf("a limit %s: %d in all, %d free, want %d and %d", c.what, total, free, c.wantTotal, c.wantFree)
		}
	}
}

func TestResidentMemoryIsKnown(t *testing.T) {
	total, _ := machineMemory()
	if total == 0 {
		t.Skip("nothing is known of this system's memory")
	}
	if used := residentMemory(); used < 1<<20 || used > total {
		t.Errorf("the process has %d bytes of %d", used, total)
	}
}
