//go:build unix

package loadtest

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is how long this process has computed, on all cores together.
func cpuTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
