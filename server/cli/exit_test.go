package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"kigo/engine"
	"kigo/engine/device"
	"kigo/engine/device/cpu"
	"kigo/engine/device/scripted"
	kigov1 "kigo/proto/kigo/v1"
)

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{usagef("x"), 2},
		{engine.ErrDeviceFault, 70},
		{engine.ErrFatal, 70},
		{engine.ErrDeviceHung, 71},
		{engine.ErrDeviceLost, 72},
		{errors.Join(errors.New("drain"), fmt.Errorf("%w: launch", engine.ErrDeviceLost)), 72},
		{context.Canceled, 130},
	} {
		if got := exitCode(c.err); got != c.code {
			t.Errorf("%v: %d, want %d", c.err, got, c.code)
		}
	}
}

func TestTerminationMessage(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "termination")
	quiet := []string{"serve", "--log-level", "off", "--listen", "127.0.0.1:0", "--http-listen", "off"}
	message := func(env map[string]string, args ...string) string {
		t.Helper()
		if err := os.WriteFile(path, []byte(strings.Repeat("old", 100)), 0o600); err != nil {
			t.Fatal(err)
		}
		kigo(t, "", env, append(quiet, args...)...).mustFail(t, exitFailure)
		return readFile(t, path)
	}
	if got := message(nil, "--model", "absent.gguf", "--termination-log", path); !strings.Contains(got, "absent.gguf") || strings.Count(got, "\n") != 1 {
		t.Errorf("the message is %q", got)
	}
	if got := message(map[string]string{"KIGO_TERMINATION_LOG": path}, "--model", folder); !strings.Contains(got, "not a regular file") {
		t.Errorf("the message is %q", got)
	}
	if got := message(nil, "--model", "absent.gguf"); !strings.HasPrefix(got, "oldold") {
		t.Errorf("without the flag there is a message: %q", got)
	}
	// Two errors are still one line, and a long one is cut.
	o := &serveOptions{terminationLog: path}
	o.terminationMessage(errors.Join(errors.New("one"), errors.New(strings.Repeat("語", maxTermination))))
	if got := readFile(t, path); !strings.HasPrefix(got, "one; 語") || len(got) > maxTermination || strings.Count(got, "\n") != 1 {
		t.Errorf("%d bytes: %.20q", len(got), got)
	}
	// Nothing reads this pipe, and nothing waits for it.
	pipe := filepath.Join(folder, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	kigo(t, "", nil, append(quiet, "--model", "absent.gguf", "--termination-log", pipe)...).mustFail(t, exitFailure, "absent.gguf")
}

// A process that cannot end by itself, because something is stuck in its device
// or in its log, is ended four seconds after the failure, and has left its
// message by then.
func TestFailedProcessIsEnded(t *testing.T) {
	folder := t.TempDir()
	path, model := filepath.Join(folder, "termination"), filepath.Join(folder, "m.gguf")
	kigo(t, "", nil, "synth", model, "--shape", "tiny").mustSucceed(t)
	synctest.Test(t, func(t *testing.T) {
		on, err := cpu.New(cpu.Config{Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer on.Close()
		fails := scripted.New(on, func(call string, _ int) error {
			if call == "NewWeights" {
				return device.ErrGone
			}
			return nil
		})
		e, err := engine.NewOn(engine.Config{}, fails)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		exit := make(chan int, 1)
		a := &app{exit: func(code int) { exit <- code }}
		defer a.whenFailed(e, &serveOptions{terminationLog: path})()

		f, err := os.Open(model)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		time.Sleep(time.Hour)
		begun := time.Now()
		if _, err := e.Load(t.Context(), engine.LoadRequest{Name: "m", File: f}, nil); !errors.Is(err, engine.ErrDeviceLost) {
			t.Errorf("load: %v", err)
		}
		synctest.Wait()
		if got := readFile(t, path); !strings.Contains(got, "it is gone") {
			t.Errorf("the message is %q", got)
		}
		if code := <-exit; code != exitLost || time.Since(begun) != exitWithin {
			t.Errorf("ended with %d after %v", code, time.Since(begun))
		}
	})
}

// The rest of this file runs kigo serve in a process of its own, on a device
// that does what the child's environment says.
const (
	childKind  = "KIGO_TEST_BREAKS" // how the device breaks
	childBreak = "KIGO_TEST_BREAK"  // the file whose appearance breaks it
)

// breakNow says, in the child, whether the time has come.
func breakNow() bool {
	_, err := os.Stat(os.Getenv(childBreak))
	return err == nil
}

// TestChildServes is the child: in any other process it does nothing.
func TestChildServes(*testing.T) {
	kind := os.Getenv(childKind)
	if kind == "" {
		return
	}
	a := &app{
		stdin: strings.NewReader(""), stdout: os.Stdout, stderr: os.Stderr, lookupEnv: os.LookupEnv, exit: os.Exit,
		newEngine: func(cfg engine.Config) (*engine.Engine, error) { return childEngine(kind, cfg) },
	}
	os.Exit(a.run(context.Background(), strings.Fields(os.Getenv("KIGO_TEST_ARGS"))))
}

func childEngine(kind string, cfg engine.Config) (*engine.Engine, error) {
	if kind == "gone at the start" {
		return nil, fmt.Errorf("engine: %w: no such device", engine.ErrDeviceLost)
	}
	if strings.HasPrefix(kind, "gpu ") {
		return gpuChildEngine(kind, cfg)
	}
	on, err := cpu.New(cpu.Config{Threads: 1})
	if err != nil {
		return nil, err
	}
	if kind == "paced" {
		return engine.NewOn(cfg, scripted.NewPaced(on, scripted.Pace{Step: pacedStep, Rows: 2048, Next: pacedNext}))
	}
	var loading atomic.Bool // a load is stuck in the device
	return engine.NewOn(cfg, scripted.New(on, func(call string, n int) error {
		if call == "Run" {
			time.Sleep(10 * time.Millisecond) // a request takes a while
		}
		if !breakNow() {
			return nil
		}
		switch {
		case kind == "fault beside a load" && call == "Commit":
			loading.Store(true)
			select {}
		case kind == "fault beside a load" && !loading.Load():
			return nil
		case call != "Run":
			return nil
		case kind == "hung":
			select {}
		case kind == "gone":
			return fmt.Errorf("launch of attend: %w", device.ErrGone)
		}
		return fmt.Errorf("launch of attend: %w", device.ErrLost)
	}))
}

// child is a kigo serve in a process of its own.
type child struct {
	cmd     *exec.Cmd
	conn    *grpc.ClientConn
	breaks  string // create it, and the device breaks
	message string // its termination log
	log     *bufio.Scanner
	lines   []string
}

func startChild(t *testing.T, kind string, args ...string) *child {
	t.Helper()
	folder := t.TempDir()
	c := &child{breaks: filepath.Join(folder, "break"), message: filepath.Join(folder, "termination")}
	args = append([]string{"serve", "--listen", "127.0.0.1:0", "--http-listen", "off", "--termination-log", c.message,
		"--step-limit", "1s", "--drain-delay", "0", "--max-concurrent", "2"}, args...)
	c.cmd = exec.Command(os.Args[0], "-test.run=^TestChildServes$")
	c.cmd.Env = append(os.Environ(), childKind+"="+kind, childBreak+"="+c.breaks, "KIGO_TEST_ARGS="+strings.Join(args, " "))
	stderr, err := c.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.log = bufio.NewScanner(stderr)
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // it has ended, unless the test failed
		_ = c.cmd.Wait()
		if t.Failed() {
			t.Logf("the child's log:\n%s", strings.Join(c.lines, "\n"))
		}
	})
	return c
}

// until reads the log up to a message, and connects on the way.
func (c *child) until(t *testing.T, message string) {
	t.Helper()
	for c.log.Scan() {
		c.lines = append(c.lines, c.log.Text())
		var line struct{ Message, GRPC string }
		if err := json.Unmarshal(c.log.Bytes(), &line); err != nil {
			t.Fatalf("not a line of the log: %s", c.log.Text())
		}
		if line.Message == "listening" {
			conn, err := grpc.NewClient(line.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			c.conn = conn
		}
		if line.Message == message {
			return
		}
	}
	t.Fatalf("the child ended before it logged %q", message)
}

// ended waits for the process, and checks how it ended.
func (c *child) ended(t *testing.T, code int, words string) {
	t.Helper()
	last := ""
	for c.log.Scan() {
		last = c.log.Text()
		c.lines = append(c.lines, last)
	}
	var exit *exec.ExitError
	if err := c.cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Errorf("the process ended with %v, want exit code %d", err, code)
	}
	if !strings.HasPrefix(last, "kigo: ") || !strings.Contains(last, words) {
		t.Errorf("its last line is %q, want %q in it", last, words)
	}
	if got := readFile(t, c.message); !strings.Contains(got, words) || strings.Count(got, "\n") != 1 {
		t.Errorf("its termination message is %q, want %q in it", got, words)
	}
}

// A device that fails under load: health turns, every stream ends with
// UNAVAILABLE and its token count, and the process is gone within five seconds,
// with the code of what happened.
func TestServeEndsWithItsDevice(t *testing.T) {
	models := t.TempDir()
	model := filepath.Join(models, "tiny.gguf")
	kigo(t, "", nil, "synth", model, "--shape", "tiny", "--format", "q8_0").mustSucceed(t)
	for _, c := range []struct {
		kind   string
		code   int
		reason string
		words  string
	}{
		{"fault", exitFault, "DEVICE_FAULT", "it has failed"},
		{"hung", exitHung, "DEVICE_HUNG", "a step does not end"},
		{"gone", exitLost, "DEVICE_LOST", "it is gone"},
		{"fault beside a load", exitFault, "DEVICE_FAULT", "it has failed"},
	} {
		t.Run(c.kind, func(t *testing.T) {
			t.Parallel()
			child := startChild(t, c.kind, "--model", model, "--model-dir", models)
			child.until(t, "ready")
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			watch, err := healthpb.NewHealthClient(child.conn).Watch(ctx, &healthpb.HealthCheckRequest{Service: "liveness"})
			if err != nil {
				t.Fatal(err)
			}
			if res, err := watch.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				t.Fatalf("liveness before: %v, %v", res, err)
			}
			var streams sync.WaitGroup
			begun := make(chan struct{}, 4)
			for range 4 {
				streams.Go(func() { childStream(t, ctx, child.conn, begun, c.reason) })
			}
			for range 4 {
				<-begun
			}
			if err := os.WriteFile(child.breaks, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if c.kind == "fault beside a load" {
				replace, name := true, "other"
				if _, err := kigov1.NewModelServiceClient(child.conn).Load(ctx, &kigov1.LoadRequest{Path: "tiny.gguf", Name: &name, Replace: &replace}); err != nil {
					t.Fatal(err)
				}
			}
			if res, err := watch.Recv(); err != nil || res.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
				t.Errorf("liveness after: %v, %v", res, err)
			}
			turned := time.Now()
			streams.Wait()
			child.ended(t, c.code, c.words)
			if took := time.Since(turned); took > 5*time.Second {
				t.Errorf("the process ended after %v", took)
			}
		})
	}
}

// childStream reads a stream that its server cannot finish.
func childStream(t *testing.T, ctx context.Context, conn *grpc.ClientConn, begun chan<- struct{}, reason string) {
	most, ignore := int32(400), true
	stream, err := kigov1.NewInferenceServiceClient(conn).Execute(ctx, &kigov1.ExecuteRequest{
		Prompt: &kigov1.ExecuteRequest_Text{Text: "a"}, MaxTokens: &most, Sampling: &kigov1.Sampling{IgnoreEnd: &ignore},
	})
	tokens := 0
	for first := true; err == nil; first = false {
		var res *kigov1.ExecuteResponse
		res, err = stream.Recv()
		tokens += len(res.GetTokens().GetIds())
		if first {
			begun <- struct{}{}
		}
	}
	if errors.Is(err, io.EOF) {
		t.Errorf("a stream ended well after %d tokens", tokens)
		return
	}
	for _, d := range status.Convert(err).Details() {
		info, ok := d.(*errdetails.ErrorInfo)
		if ok && (info.GetReason() != reason || info.GetMetadata()["generated_tokens"] != fmt.Sprint(tokens)) {
			t.Errorf("a stream of %d tokens ended with %v", tokens, info)
		}
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a stream ended with %v", err)
	}
}

func TestServeWithoutItsDevice(t *testing.T) {
	child := startChild(t, "gone at the start", "--model-dir", t.TempDir())
	child.ended(t, exitLost, "it is gone")
}
