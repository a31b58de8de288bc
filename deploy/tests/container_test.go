package deploy_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// demoModel is the model of `make run`.
const demoModel = "SmolLM2-135M-Instruct.Q4_1.gguf"

// container is the deployment's container, as far as one can be had without an
// engine for containers: the binary of the build stage, started with the image's
// entry point and the manifest's arguments, as the manifest's user, in a root of
// its own that is mounted read-only. What the base image would bring, glibc, is
// this machine's. That takes root's rights; without them, the binary runs as
// whoever runs the test, in this machine's root.
type container struct {
	cmd     *exec.Cmd
	root    string
	addr    map[string]string // where it listens, by the names of the container's ports
	ready   chan struct{}     // closed when addr is there, or when the process has ended
	exited  chan struct{}     // closed when the process has ended
	exit    error             // of the process; valid when exited is closed
	log     []string          // its last lines; valid when exited is closed
	confine bool
}

// start runs the container of s with a model file at the place where the claim
// is mounted, and waits until it listens or has ended. Of the arguments only the
// addresses are others: on loopback, at free ports.
func start(t *testing.T, s *set, model string) *container {
	t.Helper()
	c := &container{addr: map[string]string{}, ready: make(chan struct{}), exited: make(chan struct{})}
	c.confine = canConfine()
	c.unpack(t, s, model)

	img := readImage(t)
	spec := s.container()
	if len(spec.Command) > 0 {
		t.Fatalf("command %q in the place of the image's entry point: this test knows nothing of it", spec.Command)
	}
	args := slices.Clone(spec.Args)
	for i, a := range args {
		name, value, _ := strings.Cut(a, "=")
		for _, flag := range listeners {
			if name == flag {
				args[i] = flag + "=127.0.0.1:0"
			}
		}
		if mount := spec.VolumeMounts[0].MountPath; !c.confine && strings.HasPrefix(value, mount) {
			args[i] = name + "=" + c.root + value
		}
	}
	c.cmd = exec.Command(img.entrypoint[0], args...)
	c.cmd.Env = []string{}
	for _, v := range spec.Env {
		c.cmd.Env = append(c.cmd.Env, v.Name+"="+v.Value)
	}
	c.cmd.Dir = "/"
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if user := s.deployment.Spec.Template.Spec.SecurityContext; c.confine {
		c.cmd.SysProcAttr.Chroot = c.root
		c.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(*user.RunAsUser), Gid: uint32(*user.RunAsGroup)}
	} else {
		t.Log("without root's rights: neither the container's user nor its read-only root")
		c.cmd.Path = filepath.Join(c.root, img.entrypoint[0])
	}
	logged, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c.cmd.Stderr, c.cmd.Stdout = w, w

	started := make(chan error)
	go c.run(logged, w, started)
	if err := <-started; err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		if <-c.exited; t.Failed() {
			t.Logf("the end of the log:\n%s", strings.Join(c.log, "\n"))
		}
	})
	select {
	case <-c.ready:
	case <-time.After(time.Minute):
		t.Fatal("it neither listens nor ends")
	}
	return c
}

// unpack makes the root: the files of the image that come from the build stage,
// and the claim with the model.
func (c *container) unpack(t *testing.T, s *set, model string) {
	t.Helper()
	c.root = filepath.Join(scratch, strings.ReplaceAll(t.Name(), "/", "-"))
	built := filepath.Dir(build(t))
	mount := s.container().VolumeMounts[0].MountPath
	for _, folder := range append([]string{"/tmp", mount}, system...) {
		if err := os.MkdirAll(filepath.Join(c.root, folder), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.RemoveAll(c.root) })
	for to, from := range readImage(t).files {
		place(t, filepath.Join(c.root, to), filepath.Join(built, filepath.Base(from)))
	}
	place(t, filepath.Join(c.root, mount, "model.gguf"), model)
}

// place is a hard link, or where that is not possible a copy.
func place(t *testing.T, to, from string) {
	t.Helper()
	if os.Link(from, to) == nil {
		return
	}
	if err := copyInto(to, from, false); err != nil {
		t.Fatal(err)
	}
}

// system is what a container has of the machine, and what the base image brings.
var system = []string{"/proc", "/dev", "/lib", "/lib64"}

// canConfine says whether this process may mount and change users.
func canConfine() bool {
	if os.Geteuid() != 0 {
		return false
	}
	may := make(chan bool)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		may <- unix.Unshare(unix.CLONE_NEWNS) == nil
	}()
	return <-may
}

// enter gives the calling thread, and the processes that it starts, mounts of
// their own, in which root is read-only.
func enter(root string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	mounts := []struct {
		from, to string
		flags    uintptr
	}{
		{"", "/", unix.MS_REC | unix.MS_PRIVATE}, // what follows is seen nowhere else
		{root, root, unix.MS_BIND},
	}
	for _, folder := range system {
		if _, err := os.Stat(folder); err == nil {
			mounts = append(mounts, struct {
				from, to string
				flags    uintptr
			}{folder, root + folder, unix.MS_BIND | unix.MS_REC})
		}
	}
	for _, m := range mounts {
		if err := unix.Mount(m.from, m.to, "", m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.to, err)
		}
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount %s read-only: %w", root, err)
	}
	return nil
}

// run starts the process, reports that, and stays until it has ended. The log
// comes through the pipe logged, whose other end is w.
func (c *container) run(logged, w *os.File, started chan<- error) {
	// Never unlocked: the mounts and the signal at the parent's death hang on
	// this thread.
	runtime.LockOSThread()
	var err error
	if c.confine {
		err = enter(c.root)
	}
	if err == nil {
		err = c.cmd.Start()
	}
	w.Close()
	started <- err
	if err != nil {
		logged.Close()
		return
	}
	c.read(logged)
	c.exit = c.cmd.Wait()
	close(c.exited)
}

// read follows the log to its end.
func (c *container) read(logged io.ReadCloser) {
	defer logged.Close()
	for lines := bufio.NewScanner(logged); lines.Scan(); {
		c.log = append(c.log[max(0, len(c.log)-50):], lines.Text())
		var line map[string]any
		if len(c.addr) > 0 || json.Unmarshal(lines.Bytes(), &line) != nil || line["message"] != "listening" {
			continue
		}
		for name := range listeners {
			c.addr[name], _ = line[name].(string)
		}
		close(c.ready)
	}
	if len(c.addr) == 0 {
		close(c.ready)
	}
}

// wait is the exit code, within a limit.
func (c *container) wait(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-c.exited:
	case <-time.After(limit):
		t.Fatalf("it has not ended within %v", limit)
	}
	var exit *exec.ExitError
	if c.exit != nil && !errors.As(c.exit, &exit) {
		t.Fatal(c.exit)
	}
	return c.cmd.ProcessState.ExitCode()
}

// model is the path of the demo model.
func model(t *testing.T) string {
	t.Helper()
	p := filepath.Join(checkout, "models", demoModel)
	if _, err := os.Stat(p); err != nil {
		t.Fatalf("%v: run make models-demo", err)
	}
	return p
}

// client is another command of the binary, against this server.
func (c *container) client(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), build(t), append(args, "--server", c.addr["grpc"])...)
	cmd.Env = []string{}
	return cmd
}
