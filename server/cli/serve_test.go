package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// running is a `kigo serve` in this process.
type running struct {
	grpc, http string
	log        *bufio.Scanner
	dropping   sync.Once
	dropped    chan struct{} // closed when the log has ended
	tail       []string      // its last lines; valid when dropped is closed
	code       chan int
	stop       context.CancelFunc
}

// startServer runs kigo serve on free ports, and stops it with the test.
func startServer(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stderr, w := io.Pipe()
	r := &running{log: bufio.NewScanner(stderr), dropped: make(chan struct{}), code: make(chan int, 1), stop: cancel}
	a := &app{
		stdin: strings.NewReader(""), stdout: io.Discard, stderr: w,
		lookupEnv: func(string) (string, bool) { return "", false },
	}
	args = append([]string{"serve", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--drain-delay", "0"}, args...)
	go func() {
		code := a.run(ctx, args)
		w.Close()
		r.code <- code
	}()
	t.Cleanup(func() {
		cancel()
		if code := r.wait(t); code != exitOK {
			t.Errorf("kigo serve ended with exit code %d, want 0", code)
		}
		if <-r.dropped; t.Failed() {
			t.Logf("the end of the server's log:\n%s", strings.Join(r.tail, "\n"))
		}
	})
	line := r.expect(t, "listening")
	r.grpc, _ = line["grpc"].(string)
	r.http, _ = line["http"].(string)
	return r
}

// expect reads the log up to a message.
func (r *running) expect(t *testing.T, message string) map[string]any {
	t.Helper()
	for r.log.Scan() {
		var line map[string]any
		if err := json.Unmarshal(r.log.Bytes(), &line); err != nil {
			t.Fatalf("the log has a line that is not JSON: %s", r.log.Text())
		}
		if line["message"] == message {
			return line
		}
	}
	t.Fatalf("the server ended before it logged %q", message)
	return nil
}

// drop goes on reading the log, so that the server never waits for a reader.
// Nothing can be expected afterwards.
func (r *running) drop() {
	r.dropping.Do(func() {
		go func() {
			defer close(r.dropped)
			for r.log.Scan() {
				r.tail = append(r.tail[max(0, len(r.tail)-50):], r.log.Text())
			}
		}()
	})
}

// wait reads the log to its end and returns the exit code.
func (r *running) wait(t *testing.T) int {
	t.Helper()
	r.drop()
	select {
	case code := <-r.code:
		r.code <- code // for whoever asks again
		return code
	case <-time.After(time.Minute):
		t.Fatal("kigo serve does not end")
		return 0
	}
}

func TestServe(t *testing.T) {
	server := startServer(t, "--model", modelPath(t, smolLM2), "--model-name", "smol")
	ready := server.expect(t, "ready")
	if ready["model"] != "smol" || ready["architecture"] != "llama" {
		t.Errorf("the log says %v", ready)
	}
	server.drop()
	at := []string{"--server", server.grpc}

	t.Run("health", func(t *testing.T) {
		r := kigo(t, "", nil, append([]string{"health"}, at...)...).mustSucceed(t)
		for _, words := range []string{"ready", "smol (llama, 134.5 M parameters", "49152 tokens"} {
			if !strings.Contains(r.stdout, words) {
				t.Errorf("%q is not in the output:\n%s", words, r.stdout)
			}
		}
		r = kigo(t, "", map[string]string{"KIGO_SERVER": server.grpc}, "health", "--json").mustSucceed(t)
		var h struct {
			Status string
			Ready  bool
			Model  struct{ Vocabulary int }
		}
		if err := json.Unmarshal([]byte(r.stdout), &h); err != nil {
			t.Fatal(err)
		}
		if h.Status != "HEALTH_STATUS_READY" || !h.Ready || h.Model.Vocabulary != 49152 {
			t.Errorf("kigo health --json says %+v", h)
		}
	})

	t.Run("models", func(t *testing.T) {
		r := kigo(t, "", nil, append([]string{"models"}, at...)...).mustSucceed(t)
		if lines := strings.Split(r.stdout, "\n"); len(lines) != 3 || !strings.HasPrefix(lines[1], "smol") {
			t.Errorf("the table is\n%s", r.stdout)
		}
	})

	t.Run("a second model", func(t *testing.T) {
		kigo(t, "", nil, append([]string{"load", smolLM2}, at...)...).mustFail(t, exitFailure, server.grpc, "FailedPrecondition")
	})

	t.Run("unload of another model", func(t *testing.T) {
		kigo(t, "", nil, append([]string{"unload", "other"}, at...)...).mustFail(t, exitFailure, "NotFound")
	})

	t.Run("run", func(t *testing.T) { testRun(t, server.grpc) })

	t.Run("HTTP", func(t *testing.T) {
		response, err := http.Get("http://" + server.http + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Errorf("/readyz answers %s", response.Status)
		}
	})
}

// A signal that the whole process gets ends the server in order.
func TestServeEndsOnSIGTERM(t *testing.T) {
	server := startServer(t, "--model-dir", t.TempDir())
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := server.wait(t); code != exitOK {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestLoadAndUnload(t *testing.T) {
	model := modelPath(t, smolLM2)
	server := startServer(t, "--model-dir", strings.TrimSuffix(model, smolLM2))
	server.drop()
	at := []string{"--server", server.grpc}

	r := kigo(t, "", nil, append([]string{"health"}, at...)...)
	if r.code != exitFailure || !strings.Contains(r.stdout, "empty") || r.stderr != "" {
		t.Errorf("health without a model: exit code %d, output %q, error %q", r.code, r.stdout, r.stderr)
	}
	kigo(t, "", nil, append([]string{"run", "hello"}, at...)...).mustFail(t, exitFailure, "no model")
	kigo(t, "", nil, append([]string{"load", "absent.gguf"}, at...)...).mustFail(t, exitFailure, "NotFound")
	kigo(t, "", nil, append([]string{"load", "../go.mod"}, at...)...).mustFail(t, exitFailure, "InvalidArgument")

	r = kigo(t, "", nil, append([]string{"load", smolLM2, "--name", "smol", "--json"}, at...)...).mustSucceed(t)
	var m struct {
		Name     string
		Verified bool
		Tensors  int
	}
	if err := json.Unmarshal([]byte(r.stdout), &m); err != nil {
		t.Fatal(err)
	}
	if m.Name != "smol" || !m.Verified || m.Tensors != 272 {
		t.Errorf("kigo load --json says %+v", m)
	}
	kigo(t, "", nil, append([]string{"health"}, at...)...).mustSucceed(t)
	kigo(t, "", nil, append([]string{"unload", "smol"}, at...)...).mustSucceed(t)
	if r = kigo(t, "", nil, append([]string{"models"}, at...)...).mustSucceed(t); r.stdout != "" {
		t.Errorf("models after unload: %q", r.stdout)
	}
}

func TestServeFails(t *testing.T) {
	kigo(t, "", nil, "serve").mustFail(t, exitUsage, "--model")
	kigo(t, "", nil, "serve", "--model", "x", "--log-level", "loud").mustFail(t, exitUsage, "loud", "warn")
	kigo(t, "", nil, "serve", "--model", "x", "--log-format", "xml").mustFail(t, exitUsage, "xml", "json")
	quiet := func(args ...string) result {
		return kigo(t, "", nil, append([]string{"serve", "--log-level", "off", "--listen", "127.0.0.1:0", "--http-listen", "off",
			"--drain-delay", "0"}, args...)...)
	}
	quiet("--model", "absent.gguf").mustFail(t, exitFailure, "absent.gguf")
	quiet("--model", t.TempDir()).mustFail(t, exitFailure, "not a regular file")
	quiet("--model", "serve_test.go").mustFail(t, exitFailure, "serve_test.go", "GGUF")
	quiet("--model-dir", t.TempDir(), "--device", "abacus").mustFail(t, exitFailure, "abacus")
	quiet("--model-dir", "absent").mustFail(t, exitFailure, "absent")
	quiet("--model-dir", t.TempDir(), "--listen", "0.0.0.0:0").mustFail(t, exitFailure, "--insecure")
	quiet("--model-dir", t.TempDir(), "--max-streams", "0").mustFail(t, exitFailure, "MaxStreams")
}

// The README's table has every flag of serve with its default.
func TestReadmeHasEveryFlag(t *testing.T) {
	readme := readFile(t, "../../README.md")
	(&app{}).serveCommand().Flags().VisitAll(func(f *pflag.Flag) {
		value := f.DefValue
		if value == "" || value == "false" || value == "0" {
			value = ""
		}
		row := regexp.MustCompile("(?m)^\\| `--" + f.Name + "[^`]*` \\| ([^|]*) \\|")
		m := row.FindStringSubmatch(readme)
		if m == nil {
			t.Errorf("no row for --%s", f.Name)
			return
		}
		if value != "" && m[1] != "`"+value+"`" {
			t.Errorf("--%s: the README says %s, the default is %s", f.Name, m[1], value)
		}
	})
}
