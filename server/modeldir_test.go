package server

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestModelDirOpensRegularFilesOnly(t *testing.T) {
	t.Parallel()
	outer := t.TempDir()
	dir := filepath.Join(outer, "models")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "sub", "folder.gguf"), 0o755))
	must(os.WriteFile(filepath.Join(outer, "outside.gguf"), []byte("outside"), 0o644))
	must(os.WriteFile(filepath.Join(dir, "sub", "good.gguf"), []byte("good"), 0o644))
	must(os.Symlink("sub/good.gguf", filepath.Join(dir, "inside-link.gguf")))
	must(os.Symlink("../outside.gguf", filepath.Join(dir, "outside-link.gguf")))
	must(os.Symlink("/etc/hostname", filepath.Join(dir, "absolute-link.gguf")))
	must(os.Symlink("loop.gguf", filepath.Join(dir, "loop.gguf")))
	must(os.Symlink(outer, filepath.Join(dir, "outside-folder")))
	must(syscall.Mkfifo(filepath.Join(dir, "fifo.gguf"), 0o644))
	must(os.Symlink("fifo.gguf", filepath.Join(dir, "fifo-link.gguf")))
	// A device of the folder's own, where the test may make one: /dev/zero.
	device := errNotRegular
	if err := syscall.Mknod(filepath.Join(dir, "device.gguf"), syscall.S_IFCHR|0o644, 1<<8|5); err != nil {
		device = errFileMissing
		t.Logf("no device could be made: %v", err)
	}
	sock, err := net.Listen("unix", filepath.Join(dir, "socket.gguf"))
	must(err)
	defer sock.Close()

	d, err := openModelDir(dir)
	must(err)
	defer d.close()
	for _, c := range []struct {
		path string
		want error
	}{
		{"sub/good.gguf", nil},
		{"./sub/../sub/good.gguf", nil},
		{"inside-link.gguf", nil},
		{"missing.gguf", errFileMissing},
		{"sub/good.gguf/below", errFileMissing},
		{strings.Repeat("long", 100), errFileMissing},
		{"../outside.gguf", errOutsideDir},
		{"sub/../../outside.gguf", errOutsideDir},
		{"/etc/hostname", errOutsideDir},
		{filepath.Join(dir, "sub", "good.gguf"), errOutsideDir},
		{"outside-link.gguf", errOutsideDir},
		{"absolute-link.gguf", errOutsideDir},
		{"outside-folder/outside.gguf", errOutsideDir},
		{"a\x00b", errOutsideDir},
		{"", errOutsideDir},
		{".", errNotRegular},
		{"sub", errNotRegular},
		{"sub/folder.gguf", errNotRegular},
		{"fifo.gguf", errNotRegular},
		{"fifo-link.gguf", errNotRegular},
		{"device.gguf", device},
		{"socket.gguf", errNotRegular},
		{"loop.gguf", errNotRegular},
	} {
		f, err := d.open(c.path)
		if f != nil {
			f.Close()
		}
		if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("%q: %v, want %v", c.path, err, c.want)
		}
		if err != nil && strings.Contains(failureOf(err).message, outer) {
			t.Errorf("%q: the error shows the folder: %v", c.path, failureOf(err).message)
		}
	}
}

func TestModelDirUnreadable(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "closed.gguf"), nil, 0); err != nil {
		t.Fatal(err)
	}
	d, err := openModelDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if _, err := d.open("closed.gguf"); !errors.Is(err, errUnreadable) {
		t.Errorf("a file without permission: %v", err)
	}
}

func TestModelDirRefusesWithoutOne(t *testing.T) {
	t.Parallel()
	d, err := openModelDir("")
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if _, err := d.open("model.gguf"); !errors.Is(err, errNoModelDir) {
		t.Errorf("without a folder: %v", err)
	}
	if _, err := openModelDir(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a folder that is not there was accepted")
	}
}

func TestModelName(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"model.gguf": "model", "a/b/SmolLM2-135M.Q4_1.gguf": "SmolLM2-135M.Q4_1", "plain": "plain",
	} {
		if got := modelName(path); got != want {
			t.Errorf("%q is called %q, want %q", path, got, want)
		}
	}
}
