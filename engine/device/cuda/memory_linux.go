package cuda

import "golang.org/x/sys/unix"

// mapMemory takes memory that is not Go's, in huge pages where the system has
// them: a page is pinned in about the same time whatever its size.
func mapMemory(bytes int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // small pages do as well, more slowly
	return b, nil
}

func unmapMemory(b []byte) error { return unix.Munmap(b) }
