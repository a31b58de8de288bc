package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"kigo/engine/synth"
)

// patience bounds every wait for another process; nothing takes nearly as
// long unless it hangs.
const patience = 2 * time.Minute

// long says that the tests run in their full sizes.
func long() bool { return os.Getenv("KIGO_TEST_LONG") != "" }

// binaries is where buildKigo builds, removed by TestMain.
var binaries string

func TestMain(m *testing.M) {
	code := m.Run()
	if binaries != "" {
		_ = os.RemoveAll(binaries)
	}
	os.Exit(code)
}

// buildKigo builds the binary that users run, once for all tests.
var buildKigo = sync.OnceValues(func() (string, error) {
	var err error
	if binaries, err = os.MkdirTemp("", "kigo-test-"); err != nil {
		return "", err
	}
	path := filepath.Join(binaries, "kigo")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "kigo")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building kigo: %w\n%s", err, out)
	}
	return path, nil
})

// tinyModel writes a model of random weights with a long context.
func tinyModel(t testing.TB) string {
	t.Helper()
	shape, err := synth.ShapeByName("tiny")
	if err != nil {
		t.Fatal(err)
	}
	shape.Context = 1 << 16
	formats, err := synth.FormatsByName("q8_0")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tiny.gguf")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := synth.Write(context.Background(), f, shape, formats, 1); err != nil {
		t.Fatal(err)
	}
	return path
}

// process is a `kigo serve` in a process of its own.
type process struct {
	cmd        *exec.Cmd
	grpc, http string // addresses

	mu    sync.Mutex
	lines []string      // its log so far
	grown chan struct{} // closed when a line has come, then replaced
	ended chan struct{} // closed when the log has ended
}

// startProcess runs kigo serve on free ports. It is killed at the test's end if
// it has not ended by then.
func startProcess(t testing.TB, args ...string) *process {
	t.Helper()
	kigo, err := buildKigo()
	if err != nil {
		t.Fatal(err)
	}
	return follow(t, exec.Command(kigo, serveArgs(args)...))
}

func serveArgs(args []string) []string {
	return append([]string{"serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json"}, args...)
}

// follow starts a command that serves.
func follow(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	c := &process{cmd: cmd, grown: make(chan struct{}), ended: make(chan struct{})}
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			c.mu.Lock()
			c.lines = append(c.lines, lines.Text())
			close(c.grown)
			c.grown = make(chan struct{})
			c.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		<-c.ended
		_ = c.cmd.Wait() // for the second time, as a rule
		if t.Failed() {
			log := c.log()
			t.Logf("the end of the server's log:\n%s", strings.Join(log[max(0, len(log)-20):], "\n"))
		}
	})
	line := c.expect(t, "listening")
	c.grpc, _ = line["grpc"].(string)
	c.http, _ = line["http"].(string)
	return c
}

func (c *process) log() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines[:len(c.lines):len(c.lines)]
}

// expect waits for a message in the log.
func (c *process) expect(t testing.TB, message string) map[string]any {
	t.Helper()
	timeout := time.After(patience)
	for seen := 0; ; {
		c.mu.Lock()
		lines, grown := c.lines, c.grown
		c.mu.Unlock()
		for ; seen < len(lines); seen++ {
			var line map[string]any
			if json.Unmarshal([]byte(lines[seen]), &line) == nil && line["message"] == message {
				return line
			}
		}
		select {
		case <-grown:
		case <-c.ended:
			t.Fatalf("the server ended before it logged %q:\n%s", message, strings.Join(lines, "\n"))
		case <-timeout:
			t.Fatalf("the server has not logged %q", message)
		}
	}
}

// exit waits for the process and returns its exit code; -1 for a signal.
func (c *process) exit(t *testing.T) int {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(patience):
		t.Fatal("kigo serve does not end")
	}
	err := c.cmd.Wait()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return c.cmd.ProcessState.ExitCode()
}
