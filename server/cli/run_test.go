package cli

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

var summaryLine = regexp.MustCompile(`^\[(\d+) tokens(?:, [0-9.]+ tokens/s)?; prompt of (\d+) tokens in \d.*; stopped: ([a-z, ]+)\]$`)

// summaryOf reads the counts and the reason out of a summary line.
func summaryOf(t *testing.T, line string) (generated, prompt int, reason string) {
	t.Helper()
	m := summaryLine.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("%q is no summary", line)
	}
	generated, _ = strconv.Atoi(m[1])
	prompt, _ = strconv.Atoi(m[2])
	return generated, prompt, m[3]
}

// testRun drives kigo run against a server with SmolLM2.
func testRun(t *testing.T, address string) {
	run := func(stdin string, args ...string) result {
		t.Helper()
		return kigo(t, stdin, nil, append([]string{"run", "--server", address}, args...)...)
	}
	// Short prompts and answers: each token costs time, more so under the race
	// detector. "The capital of France is" goes on with " Paris." in llama.cpp
	// as well.
	const text = "The capital of France is"
	greedy := []string{"--raw", "--temperature", "0", "--max-tokens", "2"}
	raw := func(args ...string) result {
		t.Helper()
		return run("", append(append(greedy[:len(greedy):len(greedy)], args...), text)...).mustSucceed(t)
	}

	t.Run("prompt", func(t *testing.T) {
		r := raw()
		if r.stdout != " Paris.\n" {
			t.Errorf("the answer is %q", r.stdout)
		}
		if n, prompt, reason := summaryOf(t, strings.TrimSpace(r.stderr)); n != 2 || prompt != 5 || reason != "max tokens" {
			t.Errorf("the summary is %s", r.stderr)
		}
		if piped := run(text, greedy...).mustSucceed(t); piped.stdout != r.stdout {
			t.Errorf("from standard input: %q, want %q", piped.stdout, r.stdout)
		}
		if quiet := raw("--quiet"); quiet.stderr != "" {
			t.Errorf("--quiet prints %q", quiet.stderr)
		}
		here := append([]string{"run", "--model", modelPath(t, smolLM2)}, greedy...)
		if r := kigo(t, "", nil, append(here, text)...).mustSucceed(t); r.stdout != " Paris.\n" {
			t.Errorf("in this process: %q", r.stdout)
		}
	})

	// Under the race detector (make test: -short) what follows is about
	// goroutines only.
	t.Run("each flag counts", func(t *testing.T) {
		if testing.Short() {
			t.Skip("not with -short")
		}
		for _, args := range [][]string{
			{"--max-tokens", "1"},
			{"--stop", "."},
			{"--temperature", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "1"},
		} {
			if r := raw(args...); r.stdout == " Paris.\n" {
				t.Errorf("%v changes nothing", args)
			}
		}
		r := raw("--stop", "Paris")
		if _, _, reason := summaryOf(t, strings.TrimSpace(r.stderr)); reason != "sequence" || strings.Contains(r.stdout, "Paris") {
			t.Errorf("--stop Paris: stopped by %s after %q", reason, r.stdout)
		}
		// At a high temperature, each filter alone brings the greedy answer back.
		hot := []string{"--temperature", "50", "--top-k", "0", "--top-p", "1", "--min-p", "0"}
		for _, args := range [][]string{{"--top-k", "1"}, {"--top-p", "0.00001"}, {"--min-p", "1"}} {
			if r := raw(append(hot[:len(hot):len(hot)], args...)...); r.stdout != " Paris.\n" {
				t.Errorf("%v: %q, want the greedy answer", args, r.stdout)
			}
		}
		// The penalty hits what the prompt has.
		again := []string{"--raw", "--temperature", "0", "--max-tokens", "1", "a b a b a b a b a"}
		plain := run("", again...).mustSucceed(t).stdout
		if got := run("", append([]string{"--repetition-penalty", "50"}, again...)...).mustSucceed(t).stdout; got == plain {
			t.Errorf("--repetition-penalty changes nothing: %q", got)
		}
	})

	t.Run("several answers", func(t *testing.T) {
		r := raw("-n", "2")
		if r.stdout != "--- 1 ---\n Paris.\n--- 2 ---\n Paris.\n" {
			t.Errorf("the answers are %q", r.stdout)
		}
		if n, prompt, reason := summaryOf(t, strings.TrimSpace(r.stderr)); n != 4 || prompt != 5 || reason != "max tokens, max tokens" {
			t.Errorf("the summary is %s", r.stderr)
		}
		here := append([]string{"run", "-n", "2", "--model", modelPath(t, smolLM2)}, greedy...)
		if r := kigo(t, "", nil, append(here, text)...).mustSucceed(t); r.stdout != "--- 1 ---\n Paris.\n--- 2 ---\n Paris.\n" {
			t.Errorf("in this process: %q", r.stdout)
		}
		for _, args := range [][]string{{"-n", "0", text}, {"-n", "129", text}, {"-n", "2", "--interactive"}} {
			if r := run("", args...); r.code != 2 {
				t.Errorf("%v: exit code %d, %q", args, r.code, r.stderr)
			}
		}
	})

	t.Run("chat template", func(t *testing.T) {
		if testing.Short() {
			t.Skip("not with -short")
		}
		tokens := func(args ...string) int {
			r := run("", append([]string{"--max-tokens", "1", "--temperature", "0"}, args...)...).mustSucceed(t)
			_, n, _ := summaryOf(t, strings.TrimSpace(r.stderr))
			return n
		}
		bare, chat, system := tokens("--raw", "Hello"), tokens("Hello"), tokens("--system", "Be kind.", "Hello")
		if chat <= bare || system == chat {
			t.Errorf("prompts of %d (raw), %d (chat) and %d (with another system turn) tokens", bare, chat, system)
		}
	})

	t.Run("seed", func(t *testing.T) {
		if testing.Short() {
			t.Skip("not with -short")
		}
		with := func(seed string) string {
			return raw("--temperature", "3", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--max-tokens", "4", "--seed", seed).stdout
		}
		if one, again, two := with("1"), with("1"), with("2"); one != again || one == two {
			t.Errorf("seed 1: %q and %q; seed 2: %q", one, again, two)
		}
	})

	t.Run("a refused request", func(t *testing.T) {
		run("", "--temperature", "-1", text).mustFail(t, exitFailure, address, "InvalidArgument", "sampling.temperature")
	})

	t.Run("conversation", func(t *testing.T) {
		if testing.Short() {
			t.Skip("not with -short")
		}
		r := run("Hello.\n\n/help\nAnd\\\nagain.\n/clear\nHello.\n/bye\nnever asked\n",
			"--interactive", "--max-tokens", "2", "--temperature", "0").mustSucceed(t)
		var prompts []int
		for line := range strings.Lines(r.stderr) {
			if _, text, ok := strings.Cut(strings.TrimSpace(line), "["); ok {
				_, n, _ := summaryOf(t, "["+text)
				prompts = append(prompts, n)
			}
		}
		if len(prompts) != 3 || prompts[1] <= prompts[0] || prompts[2] != prompts[0] {
			t.Errorf("prompts of %v tokens: want the second to hold the first turn, the third not\n%s", prompts, r.stderr)
		}
		if !strings.Contains(r.stderr, "/clear  forget") {
			t.Error("/help prints no help")
		}
	})

	t.Run("conversation goes on after an error", func(t *testing.T) {
		r := run("one\ntwo\n", "--interactive", "--temperature", "-1").mustSucceed(t)
		if n := strings.Count(r.stderr, "sampling.temperature"); n != 2 {
			t.Errorf("%d errors printed, want 2:\n%s", n, r.stderr)
		}
	})

	t.Run("Ctrl-C ends the answer, not the conversation", func(t *testing.T) {
		interrupts := make(chan os.Signal)
		var stdout, stderr bytes.Buffer
		a := &app{
			stdin: strings.NewReader("Count from one to one thousand.\n/clear\nHello.\n"),
			stdout: &onFirstWrite{w: &stdout, f: func() {
				interrupts <- os.Interrupt
			}},
			stderr:    &stderr,
			lookupEnv: func(string) (string, bool) { return "", false },
			notify:    func() (<-chan os.Signal, func()) { return interrupts, func() {} },
		}
		code := a.run(t.Context(), []string{"run", "--server", address, "--interactive", "--temperature", "0", "--max-tokens", "12"})
		if code != exitOK {
			t.Fatalf("exit code %d; standard error:\n%s", code, stderr.String())
		}
		first, second, ok := strings.Cut(stderr.String(), "[interrupted]")
		if !ok || strings.Contains(first, "stopped:") {
			t.Errorf("the first answer was not interrupted:\n%s", stderr.String())
		}
		if !strings.Contains(second, "stopped:") {
			t.Errorf("no second answer:\n%s\n%s", stdout.String(), stderr.String())
		}
	})
}

// onFirstWrite calls f once, after the first write.
type onFirstWrite struct {
	w    io.Writer
	f    func()
	once sync.Once
}

func (o *onFirstWrite) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	o.once.Do(o.f)
	return n, err
}

func TestRunErrors(t *testing.T) {
	kigo(t, "", nil, "run", "--server", "127.0.0.1:1", "hi").mustFail(t, exitFailure, "no server answers at 127.0.0.1:1", "kigo serve")
	kigo(t, "", nil, "run", "--model", "absent.gguf", "hi").mustFail(t, exitFailure, "absent.gguf")
	kigo(t, "", nil, "run", "--model", "run_test.go", "hi").mustFail(t, exitFailure, "run_test.go", "GGUF")
	// A vocabulary is no model.
	kigo(t, "", nil, "run", "--model", modelPath(t, "vocab/ggml-vocab-gpt-2.gguf"), "hi").mustFail(t, exitFailure, "vocab-gpt-2")
}

func TestTextWriterOnATerminal(t *testing.T) {
	var b bytes.Buffer
	for _, escape := range []bool{true, false} {
		w := textWriter{w: &b, escape: escape}
		if err := w.Text("a\x1b[2Jb\n"); err != nil {
			t.Fatal(err)
		}
	}
	if want := "a\\x1b[2Jb\na\x1b[2Jb\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
