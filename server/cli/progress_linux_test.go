package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal opens a pseudo-terminal: what is written to the file that it returns
// is given by text, once the file is closed.
func terminal(t *testing.T) (file *os.File, text func() string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if file, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(file.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	var screen bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(&screen, master) // ends with an error when the file is closed
	}()
	t.Cleanup(func() { master.Close() })
	return file, func() string {
		<-done
		return screen.String()
	}
}

// At a terminal the commands that take a while show how far they are, and leave
// nothing of it on the screen but their last line.
func TestProgressAtATerminal(t *testing.T) {
	folder := t.TempDir()
	model := filepath.Join(folder, "m.gguf")
	kigo(t, "", nil, "synth", model, "--shape", "tiny").mustSucceed(t)
	text := filepath.Join(folder, "text.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("An old pond.\n", 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	server := startServer(t, "--model-dir", folder)
	server.drop()
	for name, c := range map[string]struct {
		args []string
		says []string // patterns: at the first look, there may be time for no other
	}{
		// A client that is late finds a later stage first.
		"load":       {[]string{"load", "m.gguf", "--server", server.grpc}, []string{"parse|read|verify|compile|warm"}},
		"convert":    {[]string{"convert", model, filepath.Join(folder, "q.gguf"), "--format", "q8_0"}, []string{"converting", "%"}},
		"synth":      {[]string{"synth", filepath.Join(folder, "s.gguf"), "--shape", "tiny"}, []string{"writing", "%"}},
		"perplexity": {[]string{"perplexity", model, "--text", text, "--context", "32"}, []string{"loading", "tokens", "%"}},
	} {
		t.Run(name, func(t *testing.T) {
			stderr, screen := terminal(t)
			var stdout bytes.Buffer
			a := &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: stderr, lookupEnv: os.LookupEnv}
			code := a.run(context.Background(), c.args)
			stderr.Close()
			shown := screen()
			if code != exitOK {
				t.Fatalf("exit code %d: %s", code, shown)
			}
			for _, want := range c.says {
				if !regexp.MustCompile(want).MatchString(shown) {
					t.Errorf("%q was never on the screen: %q", want, shown)
				}
			}
			// The bar is wiped out before anything else is written.
			last := shown[strings.LastIndex(shown, "\r\r")+1:]
			if strings.Contains(last, "%") {
				t.Errorf("the bar was left on the screen: %q", shown)
			}
			if strings.Contains(stdout.String(), "%") {
				t.Errorf("the bar is in the output: %q", stdout.String())
			}
		})
	}
}
