package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// writeWhole has write fill a file that appears at path when it is complete,
// or not at all. What is there already is lost only with force.
func writeWhole(path string, force bool, perm fs.FileMode, write func(out *os.File) error) error {
	if err := mayWrite(path, force); err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(path), ".kigo-*")
	if err != nil {
		return err
	}
	// After the rename there is nothing left to remove, or to close.
	defer os.Remove(out.Name()) //nolint:errcheck // see above
	defer out.Close()
	if err := write(out); err != nil {
		return err
	}
	if err := errors.Join(out.Chmod(perm), out.Sync(), out.Close()); err != nil {
		return err
	}
	if err := mayWrite(path, force); err != nil { // it may have appeared since
		return err
	}
	return os.Rename(out.Name(), path)
}

// mayWrite refuses a path where something is that would be lost.
func mayWrite(path string, force bool) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s exists and is not a regular file", path)
	case !force:
		return fmt.Errorf("%s exists; --force writes over it", path)
	}
	return nil
}
