package cli

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"

	"kigo/engine/testenv"
)

const smolLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"

// result is what a command left behind.
type result struct {
	code           int
	stdout, stderr string
}

// kigo runs a command line in this process, with an environment of its own.
func kigo(t *testing.T, stdin string, env map[string]string, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{
		stdin:     strings.NewReader(stdin),
		stdout:    &stdout,
		stderr:    &stderr,
		lookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		notify:    func() (<-chan os.Signal, func()) { return nil, func() {} },
	}
	code := a.run(t.Context(), args)
	return result{code, stdout.String(), stderr.String()}
}

// mustSucceed fails the test unless the command ended with 0.
func (r result) mustSucceed(t *testing.T) result {
	t.Helper()
	if r.code != exitOK {
		t.Fatalf("exit code %d, want 0; standard error:\n%s", r.code, r.stderr)
	}
	return r
}

// mustFail fails the test unless the command ended with the code and said so
// in one sentence that has the words.
func (r result) mustFail(t *testing.T, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d; standard error:\n%s", r.code, code, r.stderr)
	}
	first, rest, _ := strings.Cut(r.stderr, "\n")
	if !strings.HasPrefix(first, "kigo: ") {
		t.Errorf("standard error starts with %q, want \"kigo: \"", first)
	}
	if code != exitUsage && rest != "" {
		t.Errorf("standard error has more than one line:\n%s", r.stderr)
	}
	for _, word := range words {
		if !strings.Contains(first, word) {
			t.Errorf("standard error is %q, want %q in it", first, word)
		}
	}
	if r.stdout != "" {
		t.Errorf("standard output of a failed command: %q", r.stdout)
	}
}

// modelPath finds a file of the models/ folder.
func modelPath(t *testing.T, name string) string {
	t.Helper()
	return testenv.Model(t, name)
}

func TestUsageErrors(t *testing.T) {
	model := modelPath(t, smolLM2)
	for name, test := range map[string]struct {
		args  []string
		words []string
	}{
		"unknown command":     {[]string{"serv"}, []string{`"serv"`, `did you mean "serve"?`}},
		"unknown flag":        {[]string{"version", "--nope"}, []string{"--nope"}},
		"missing argument":    {[]string{"inspect"}, []string{"the file to inspect is missing"}},
		"extra argument":      {[]string{"inspect", "a", "b"}, []string{`"b"`}},
		"bad number":          {[]string{"run", "--temperature", "warm", "hi"}, []string{"temperature", "warm"}},
		"model missing":       {[]string{"tokenize"}, []string{"--model"}},
		"decode and encode":   {[]string{"tokenize", "--model", model, "--decode", "--add-special"}, []string{"--decode"}},
		"server and model":    {[]string{"run", "--model", model, "--server", "127.0.0.1:1", "hi"}, []string{"--server and --model"}},
		"empty prompt":        {[]string{"run"}, []string{"the prompt is empty"}},
		"raw and system":      {[]string{"run", "--raw", "--system", "s", "hi"}, []string{"--raw"}},
		"bad convert format":  {[]string{"convert", "a", "b", "--format", "q9_9"}, []string{"q9_9", "q8_0"}},
		"convert format none": {[]string{"convert", "a", "b"}, []string{"--format"}},
	} {
		t.Run(name, func(t *testing.T) {
			kigo(t, "", nil, test.args...).mustFail(t, exitUsage, test.words...)
		})
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	root := (&app{}).rootCommand()
	for _, cmd := range root.Commands() {
		if cmd.Example == "" {
			t.Errorf("kigo %s --help shows no example", cmd.Name())
		}
		r := kigo(t, "", nil, cmd.Name(), "--help").mustSucceed(t)
		if !strings.Contains(r.stdout, cmd.Example) {
			t.Errorf("kigo %s --help does not print its example", cmd.Name())
		}
	}
}

func TestVersion(t *testing.T) {
	r := kigo(t, "", nil, "version").mustSucceed(t)
	if want := "kigo " + Version() + " (go"; !strings.HasPrefix(r.stdout, want) {
		t.Errorf("kigo version prints %q, want %q first", r.stdout, want)
	}
}

func TestCompletion(t *testing.T) {
	r := kigo(t, "", nil, "completion", "bash").mustSucceed(t)
	if !strings.Contains(r.stdout, "__start_kigo") {
		t.Error("kigo completion bash prints no completion script")
	}
}

func TestFlagsFromTheEnvironment(t *testing.T) {
	// Nothing listens on these ports: the error names the address that was used.
	env := map[string]string{"KIGO_SERVER": "127.0.0.1:1"}
	kigo(t, "", env, "health").mustFail(t, exitFailure, "127.0.0.1:1 ")
	kigo(t, "", env, "health", "--server", "127.0.0.1:2").mustFail(t, exitFailure, "127.0.0.1:2 ")
	kigo(t, "", map[string]string{"KIGO_THREADS": "many"}, "serve").mustFail(t, exitUsage, "KIGO_THREADS", "many")
	r := kigo(t, "", nil, "serve", "--help").mustSucceed(t)
	for _, name := range []string{"KIGO_MODEL_DIR", "KIGO_MAX_CONCURRENT", "KIGO_NO_REFLECTION"} {
		if !strings.Contains(r.stdout, name) {
			t.Errorf("kigo serve --help does not name %s", name)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr,
		lookupEnv: func(string) (string, bool) { return "", false }}
	if code := a.run(ctx, []string{"health", "--server", "127.0.0.1:1"}); code != exitInterrupted {
		t.Errorf("exit code %d, want %d", code, exitInterrupted)
	}
}

func TestEscapeControls(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"plain text, ünï and 語 👩‍🚀\n\ttabs", "plain text, ünï and 語 👩‍🚀\n\ttabs"},
		{"\x1b]0;title\a", `\x1b]0;title\x07`},
		{"a\rb", `a\x0db`},
		{"\u009b31m", `\x9b31m`},
		{"\x7f", `\x7f`},
		{"\xff\xc3", `\xff\xc3`},
		{"abc\u202edef", `abc\u202edef`},
	} {
		if got := escapeControls(test.in); got != test.want {
			t.Errorf("escapeControls(%q) = %q, want %q", test.in, got, test.want)
		}
	}
}
