package cli

import (
	"fmt"
	"os"
	"syscall"

	"kigo/engine/gguf"
)

// openModel opens a model file. Anything but a regular file is refused: before
// it is opened, because opening a device can do something, and again afterwards,
// because it may have been exchanged in between; so it is opened without waiting,
// as a pipe would.
func openModel(path string) (*os.File, error) {
	if err := mustBeRegular(path); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func mustBeRegular(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	return nil
}

// parseModel opens a GGUF file and reads its header. The caller closes the
// file.
func parseModel(path string) (*os.File, *gguf.File, error) {
	f, err := openModel(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil {
		var header *gguf.File
		if header, err = gguf.Parse(f, info.Size(), gguf.Limits{}); err == nil {
			return f, header, nil
		}
	}
	f.Close()
	return nil, nil, fmt.Errorf("%s: %w", path, err)
}
