package server

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// modelDir is the one folder that Load finds files in. os.Root resolves the
// names, so that neither "..", nor an absolute path, nor a link leads out.
type modelDir struct{ root *os.Root }

// openModelDir opens path; an empty path gives a folder that refuses
// everything.
func openModelDir(path string) (*modelDir, error) {
	if path == "" {
		return &modelDir{}, nil
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("model directory: %w", err)
	}
	return &modelDir{root: root}, nil
}

func (d *modelDir) close() {
	if d.root != nil {
		_ = d.root.Close()
	}
}

// open opens a regular file for reading. The caller closes it. The error wraps
// one of errNoModelDir, errOutsideDir, errFileMissing, errNotRegular and
// errUnreadable, and names path only through what the caller gave.
func (d *modelDir) open(path string) (*os.File, error) {
	if d.root == nil {
		return nil, errNoModelDir
	}
	if !filepath.IsLocal(path) || strings.ContainsRune(path, 0) {
		return nil, errOutsideDir
	}
	// Looked at before it is opened, because opening a device can do something,
	// and again afterwards, because it may have been exchanged in between.
	info, err := d.root.Stat(path)
	if err != nil {
		return nil, openError(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	// Without waiting: a FIFO put there in the meantime has no writer.
	f, err := d.root.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, openError(err)
	}
	info, err = f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		_ = f.Close()
		return nil, openError(err)
	}
	return f, nil
}

// openError finds the kind of an error of os.Root.
func openError(err error) error {
	switch {
	case errors.Is(err, errNotRegular):
		return err
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ENAMETOOLONG):
		return fmt.Errorf("%w: %w", errFileMissing, err)
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("%w: %w", errNotRegular, err)
	case isEscape(err):
		return errOutsideDir
	}
	return fmt.Errorf("%w: %w", errUnreadable, err)
}

// isEscape recognises a link that leads out: os.Root has no sentinel for it,
// and its error is the only one that is no number of the system's.
func isEscape(err error) bool {
	var path *fs.PathError
	if !errors.As(err, &path) {
		return false
	}
	var errno syscall.Errno
	return !errors.As(path.Err, &errno) && !errors.Is(path.Err, fs.ErrClosed)
}

// modelName is what a file is called without a name of its own.
func modelName(path string) string {
	base := filepath.Base(path)
	return strings.TrimSuffix(base, filepath.Ext(base))
}
